"""Costs, against sums made by hand; and prices that cannot be."""

from pathlib import Path

import pytest

from ftlib.costs.prices import Prices, Usage, money, read_prices
from ftlib.costs.used import UNNAMED, priced_name, used
from ftlib.errors import RecipeError
from ftlib.training.compute import Compute
from ftlib.training.memory.cards import CARDS


def test_two_workers_of_four_threads_for_half_an_hour_are_four_core_hours():
    compute = Compute(workers=2, threads=4)
    usage = used([("train tune", 1800.0), ("select", 3600.0)], compute, machine=64, card="")
    assert usage.core_hours == pytest.approx(2 * 4 * 0.5 + 1 * 1.0)
    assert usage.gpu_hours == {}


def test_each_worker_has_a_gpu_while_it_trains_and_only_then():
    compute = Compute(workers=2, threads=4, use_gpu=True)
    usage = used([("train tune", 900.0), ("ingest home", 900.0)], compute, machine=64, card="H100")
    assert usage.gpu_hours == {"H100": pytest.approx(0.5)}


@pytest.mark.parametrize(
    ("stage", "cores", "cards"),
    [
        ("fisher for tune", 2 * 4, 2),
        ("answer home for tune", 3 * 4, 3),
        ("revise home for tune", 3 * 4, 3),
        ("uphold home for tune", 3 * 4, 3),
        ("soup: score home by teacher", 3 * 4, 3),
        ("evaluate away test", 3 * 4, 3),
        ("batch_norm", 4, 1),
        ("prune", 4, 1),
        ("diverge", 4, 1),
        ("select", 1, 0),
    ],
)
def test_what_asks_models_has_their_workers_cores_and_cards(stage, cores, cards):
    compute = Compute(workers=2, evaluation_workers=3, threads=4, use_gpu=True)
    usage = used([(stage, 3600.0)], compute, machine=64, card="H100")
    assert (usage.core_hours, usage.gpu_hours) == (cores, {"H100": cards} if cards else {})


def test_a_flow_without_a_gpu_beside_a_cluster_uses_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    compute = Compute(workers=2, threads=4, use_gpu=True, ray_address="http://head:8265")
    assert used([("evaluate away test", 3600.0)], compute, machine=64, card="").gpu_hours == {}
    assert used([("train tune", 3600.0)], compute, machine=64, card="").gpu_hours == {UNNAMED: 2}


def test_what_costs_what():
    prices = Prices(currency="EUR", cpu_core_hour=0.04, gpu_hour={"H100": 2.5}, storage_gb_month=0.02)
    cost = prices.of(Usage(core_hours=10, gpu_hours={"H100": 0.5}, stored_bytes=3_000_000_000))
    assert cost.total == pytest.approx(0.40 + 1.25)
    assert cost.storage_month == pytest.approx(0.06)
    assert cost.line() == "1.65 EUR (CPU 0.40, GPU 1.25); 0.06 EUR a month to keep what it made"


def test_requests_are_priced_by_the_thousand():
    cost = Prices(currency="EUR", thousand_requests=0.005).of(Usage(requests=3000))
    assert (cost.requests, cost.total) == pytest.approx((0.015, 0.015))
    assert cost.line() == "0.015 EUR (CPU 0.00, GPU 0.00, requests 0.015)"
    assert Prices(currency="EUR").of(Usage(requests=1)).unpriced == ("requests",)


def test_what_has_no_price_is_named_and_counts_nothing():
    cost = Prices(currency="shells").of(Usage(core_hours=1, gpu_hours={UNNAMED: 1.0}, stored_bytes=1))
    assert cost.total == 0
    assert cost.line().endswith("without a price, so not counted: a GPU of unknown name, CPU cores, storage")


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80"),
        ("NVIDIA H100 PCIe", "H100-80"),
        ("NVIDIA H100 NVL 94GB", None),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA A100-SXM", None),
        ("Tesla V100-SXM2-16GB", "V100-16"),
        ("Tesla T4", "T4-16"),
        ("NVIDIA A10", "A10-24"),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", "L40S-48"),
        ("NVIDIA GeForce RTX 4090", "RTX4090-24"),
        ("NVIDIA H200", "H200-141"),
        ("AMD Instinct MI300X OAM", "MI300X-192"),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(name, card):
    assert [one.name for one in CARDS.values() if one.is_called(name)] == ([card] if card else [])


def test_a_card_has_the_price_of_its_own_name_or_of_its_drivers():
    by_driver = {"NVIDIA H100 80GB HBM3": 2.5, "NVIDIA H100 PCIe": 3.0, "Tesla T4": 0.5}
    card = CARDS["H100-80"]
    assert priced_name(card, Prices(currency="EUR", gpu_hour=by_driver)) == "NVIDIA H100 PCIe"
    assert priced_name(card, Prices(currency="EUR", gpu_hour={**by_driver, "h100-80": 1.0})) == "h100-80"
    assert priced_name(card, Prices(currency="EUR")) == "H100-80"


@pytest.mark.parametrize(("sum_", "said"), [(0, "0.00"), (1234.5, "1,234.50"), (0.0012345, "0.0012"), (0.1, "0.10")])
def test_sums_are_written_with_digits_that_count(sum_, said):
    assert money(sum_) == said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("currency: EUR\ncpu_core_hour: -1\n", "cpu_core_hour: Input should be greater than or equal to 0, got -1"),
        ("cpu_core_hour: 1\n", "currency: Field required"),
        ("currency: EUR\ngpu_hours: {}\n", "gpu_hours: Extra inputs are not permitted"),
        ("currency: EUR\ncpu_core_hour: 1e999\n", "cpu_core_hour: Input should be a finite number"),
        ("", "holds no fields"),
        ("a: [", "is no YAML"),
    ],
)
def test_prices_that_cannot_be_are_one_line(tmp_path: Path, text, says):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_prices(file)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prices_may_be_absent_but_not_where_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REGLAGE_PRICES", raising=False)
    assert read_prices() is None
    monkeypatch.setenv("REGLAGE_PRICES", str(tmp_path / "none.yaml"))
    with pytest.raises(RecipeError, match="cannot be read"):
        read_prices()


def test_the_variable_may_hold_the_prices_themselves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGLAGE_PRICES", '{"currency": "EUR", "gpu_hour": {"H100": 2.5}}')
    assert read_prices() == Prices(currency="EUR", gpu_hour={"H100": 2.5})
    monkeypatch.setenv("REGLAGE_PRICES", '{"currency": 1}')
    with pytest.raises(RecipeError, match="prices: REGLAGE_PRICES: currency: Input should be a valid string"):
        read_prices()
