#!/usr/bin/env bash
# What must be seen on a GPU: the tests marked `gpu`, then the training benchmark beside Trainer and SFTTrainer.
#
# For a bare CUDA machine without network, whose python3 has torch, transformers and peft. What it lacks is installed
# from .gpu-wheels/ (`make gpu-wheels`): a folder for all, one for Ray and one for TRL. GPU_MODEL says which model trains
# (1b, 8b-lora, 3b): one a call, of at most five minutes. Card, versions and figures are added to benchmarks/baselines/,
# and copied to $OUT where it is set.
#
# GPU_REHEARSAL=1 does the same on the processor, with a tiny model, and adds nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${GPU_PYTHON:-python3}
site=${GPU_SITE:-/tmp/reglage-site}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 DO_NOT_TRACK=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

if [[ -z ${GPU_REHEARSAL:-} ]]; then
  for set in .gpu-wheels/*/; do
    ls "$set"*.whl >/dev/null 2>&1 || continue
    $python -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$set"*.whl || exit 1
  done
  export PYTHONPATH=$site:$PYTHONPATH
  command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  model=(--model "${GPU_MODEL:-1b}")
else
  model=(--model "${GPU_MODEL:-tiny}" --cpu)
fi

failed=()
step() {
  local name=$1 began=$SECONDS
  shift
  echo "== $name"
  if "$@"; then echo "== $name: ok, $((SECONDS - began)) s"; else failed+=("$name") && echo "== $name: FAILED, $((SECONDS - began)) s"; fi
}
steps=${GPU_STEPS:-tests train}
# Without what pyproject.toml adds, which is not all there; SIGINT at the end of the time, so that pytest still says what failed.
[[ $steps == *tests* ]] && step tests timeout -s INT "${GPU_TEST_SECONDS:-300}" $python -m pytest -o addopts= --import-mode=importlib \
  -p no:cacheprovider -m gpu -q -rfE --tb=short --durations=8 ${GPU_TESTS:-tests/gpu}
[[ $steps == *train* ]] && step train $python -m benchmarks.gpu_train "${model[@]}" ${GPU_TRAIN:-}
[[ -n ${OUT:-} && -d benchmarks/baselines ]] && cp -r benchmarks/baselines "$OUT"/

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "the GPU check passed in $SECONDS s"
