#!/usr/bin/env bash
# The image and the services of compose.yaml, built and started by podman where nothing can be pulled: as root on Debian.
#
#   infra/container.sh base     the image that FROM names, by debootstrap, if no registry of images can be reached
#   infra/container.sh build    the image reglage:dev; pip reaches its registry as it does on this machine, by a secret
#   infra/container.sh check    the image, on its own: its commit, a recipe checked, a tiny one run to a published version
#   infra/container.sh up       all services of compose.yaml, with PostgreSQL and an S3 store made here (REGLAGE_ENV: the
#                               file of secrets, else one is made); `down` ends them, volumes stay
#   infra/container.sh podman ...   podman as it is called here
#
# CONTAINERS is where images and volumes are kept. Packages: podman buildah debootstrap fuse-overlayfs crun iptables
# podman-compose. With RESTRICTED=1 it does without what a container that starts containers lacks: cgroups, and the
# right to raise limits. docs/containers.md says what was seen.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
store=${CONTAINERS:-/var/lib/reglage-containers}
base=localhost/python:3.11-slim-bookworm
mkdir -p "$store"

if [[ -n ${RESTRICTED:-} && -z ${IN_NAMESPACE:-} ]]; then
  # crun refuses a hybrid of both kinds of cgroups, so it is shown one kind alone, in a mount namespace that all calls share.
  if ! { read -r holder <"$store/holder" && [[ -e /proc/$holder/ns/mnt ]]; } 2>/dev/null; then
    setsid unshare -m bash -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; echo $$ >"$1"; exec sleep infinity' \
      - "$store/holder" </dev/null >/dev/null 2>&1 &
    until [[ -s $store/holder ]] && read -r holder <"$store/holder" && [[ -e /proc/$holder/ns/mnt ]]; do sleep 0.2; done
    sleep 1
  fi
  exec nsenter --mount --target "$holder" --wdns="$here" env IN_NAMESPACE=1 "$here/infra/container.sh" "$@"
fi

starting=()
[[ -n ${RESTRICTED:-} ]] && starting=(--cgroups=disabled --ulimit nofile=20000:20000 --ulimit nproc=9000:9000)

podman() {
  command podman --root "$store/containers" --runroot "$store/run" --storage-driver overlay --cgroup-manager cgroupfs "$@"
}

make_base() {
  local tree=$store/base
  rm -rf "$tree"
  debootstrap --variant=minbase --include=python3.11,python3-pip,python3-venv,ca-certificates bookworm "$tree" http://deb.debian.org/debian
  # As in the image of that name: `python`, and a pip that installs for everyone.
  ln -s python3 "$tree/usr/bin/python"
  rm -rf "$tree/usr/lib/python3.11/EXTERNALLY-MANAGED" "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
  tar -C "$tree" -c . | podman import - "$base"
  rm -rf "$tree"
}

# What pip is told on this machine, as one file: given to the build as a secret, and to no layer.
pip_settings() {
  echo "[global]"
  python3 -m pip config list | sed -n "s/^\(global\|:env:\)\.\.\?\([a-z-]*\)='\(.*\)'$/\2 = \3/p" | grep -v '^constraint\|^cert' | sort -u
  echo "cert = /run/certificates.crt"
}

build() {
  (umask 077 && pip_settings >"$store/pip.conf")
  # Folders that pip reads, and this machine's certificates: seen by the build, not copied.
  local seen=(--volume /etc/ssl/certs/ca-certificates.crt:/run/certificates.crt:ro) folder
  for folder in $(grep -oE '(file://)?/[^ ]+' "$store/pip.conf" | sed 's#^file://##; s#/simple$##' | sort -u); do
    [[ -d $folder ]] && seen+=(--volume "$folder:$folder:ro")
  done
  local common=(--isolation chroot --network host --layers "${seen[@]}" --secret "id=pip,src=$store/pip.conf" --build-arg "BASE=$base")
  local dirty=
  git diff --quiet HEAD || dirty=-dirty
  podman build "${common[@]}" --build-arg TORCH_INDEX= --build-arg "REGLAGE_COMMIT=$(git rev-parse HEAD)$dirty" \
    --file infra/Dockerfile --tag reglage:dev .
  podman build "${common[@]}" --file infra/debian.Dockerfile --target postgres --tag reglage-postgres:dev infra
  podman build "${common[@]}" --file infra/debian.Dockerfile --target s3 --tag reglage-s3:dev infra
}

check() {
  podman run --rm "${starting[@]}" --network none --interactive reglage:dev bash -euc '
    reglage --version
    whoami
    reglage init --example quickstart
    reglage check recipes/quickstart.yaml
    python -c "from pathlib import Path; from ftlib.testing import tiny_recipe; tiny_recipe(Path.cwd())"
    sed -i "s/workers: 0/workers: 1/" tiny.yaml
    reglage run tiny.yaml
    echo "a line" | reglage predict tiny-router@1
    reglage lineage tiny-router@1 | grep commit'
}

compose() {
  local settings=${REGLAGE_ENV:-$store/env}
  if [[ ! -s $settings ]]; then
    (
      umask 077
      secret() { openssl rand -hex 32; }
      printf '%s\n' "POSTGRES_PASSWORD=$(secret)" "S3_ACCESS_KEY=reglage" "S3_SECRET_KEY=$(secret)" "RAY_AUTH_TOKEN=$(secret)" \
        "PREFECT_AUTH=admin:$(secret)" REGLAGE_VERSION=dev "REGLAGE_PROJECT=${REGLAGE_PROJECT:-$here}" >"$settings"
    )
  fi
  # podman-compose calls this script for podman, so that both see one store.
  printf '#!/bin/sh\nexec "%s" podman "$@"\n' "$here/infra/container.sh" >"$store/podman"
  chmod +x "$store/podman"
  set -a
  . "$settings"
  podman-compose --podman-path "$store/podman" --podman-run-args="${starting[*]}" \
    -f infra/compose.yaml -f infra/compose.debian.yaml "$@"
}

case ${1:-} in
  base) make_base ;;
  build) build ;;
  check) check ;;
  up) compose up -d --no-build ;;
  down) compose down ;;
  podman) shift && podman "$@" ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
