"""Named networks: folded and cut without a change of what they compute, trained where the plan says."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.architecture import architecture_layout, load_architecture
from client.backbone import Compute, read_weights
from client.clipped_sum import HookedSum, OneByOneSum
from client.cut import block_names, cut
from client.data import ImageTable, load_table
from client.features import FeatureRecipe, PooledFeatures
from client.frozen_network import FrozenNetwork
from client.learner import Learner, load_learner, plan_layout
from client.lite0 import fold_lite0
from client.model import trainable_vector
from client.network import frozen_part, trained_layout, trained_part
from client.network_units import mean_features, network_units, small_enough
from client.unit_images import UnitImages
from common.config import parse_settings
from common.errors import ConfigError, DataError, PlanError, UnsupportedLayer
from common.plan import Plan
from common.plan_models import NetworkModel
from common.site_config import SiteConfig, load_site
from scripts.evaluate import evaluate
from tests.support.small_federation import NAMES, TEMPLATE, provision_small, write_images

SMALL = "torchvision:shufflenet_v2_x0_5"
CPU = Compute(torch.device("cpu"), "float32")
NO_MEAN = np.zeros(0)


def settings(architecture: str, trainable: str, *, digest: str | None = "0" * 64, **changes: object) -> NetworkModel:
    """A plan's section."""
    usual = {"image_size": 64, "views": 1, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    named = {
        "kind": "network",
        "architecture": architecture,
        "weights_sha256": None if architecture == "lite0" else digest,
        "trainable": trainable,
    }
    return NetworkModel.model_validate({**named, **usual, **changes})


def random_network(name: str, *, classes: int = 1000) -> nn.Module:
    """A network whose BatchNorms have statistics that matter."""
    torch.manual_seed(1)
    if name.startswith("timm:"):
        import timm  # noqa: PLC0415 -- slow, and needed by few

        network: nn.Module = timm.create_model(name.removeprefix("timm:"), num_classes=classes)
    else:
        network = torchvision.models.get_model(name.removeprefix("torchvision:"), num_classes=classes)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
    return network.eval()


def saved(network: nn.Module, path: Path) -> str:
    """Write a weights file; its digest."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def classifier_inputs(network: nn.Module, x: Tensor) -> Tensor:
    """What the original network's last linear layer is given."""
    seen: list[Tensor] = []
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(x)
    handle.remove()
    return seen[0].flatten(1)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """New layers in float64, so that only a wrong formula can differ by more than rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("name", "trainable", "side"),
    [
        (SMALL, "last:1", 64),
        (SMALL, "head", 64),
        ("torchvision:mobilenet_v3_small", "all", 64),
        ("torchvision:densenet121", "last:2", 64),
        ("timm:efficientnet_lite0", "last:4", 64),
        ("timm:vit_tiny_patch16_224", "last:2", 224),
    ],
)
def test_parts_compute_what_the_network_computed(name: str, trainable: str, side: int, tmp_path: Path) -> None:
    """To 1e-12, though no BatchNorm is left in the trained part, in train mode, and for units side by side."""
    network = random_network(name)
    digest = saved(network, tmp_path / "w.safetensors")
    model = settings(name, trainable, digest=digest, image_size=side)
    parts = cut(load_architecture(model, weights=tmp_path / "w.safetensors"), last_blocks=model.last_blocks)
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        out = x
        for part in parts:
            out = out if part is None else part(out)
    due = classifier_inputs(network, x)
    scale = float(due.abs().max())
    assert float((out.flatten(1) - due).abs().max()) <= 1e-12 * scale
    assert scale > 1e-3  # control
    trained = parts[1]
    if trained is not None:
        assert trained.training
        assert not any(isinstance(layer, _BatchNorm | nn.Dropout) for layer in trained.modules())
        assert not list(trained.buffers())


def test_lite0_of_torchs_layers_computes_what_the_frozen_one_does() -> None:
    """Odd sizes too, where TensorFlow's padding is lopsided."""
    x = torch.randn(2, 3, 75, 75)
    model = settings("lite0", "last:2", image_size=75)
    frozen, trained = cut(load_architecture(model, weights=None), last_blocks=2)
    assert frozen is not None
    assert trained is not None
    with torch.no_grad():
        due = fold_lite0(read_weights())(x)
        seen = trained(frozen(x)).flatten(1)
    torch.testing.assert_close(seen, due, rtol=1e-4, atol=1e-4)


def test_a_unit_does_not_see_others_in_a_trained_part() -> None:
    """The control is the network as it was, in train mode."""
    network = random_network(SMALL).double()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        part = trained_layout(settings(SMALL, "all"), classes=2).double()
        body = part.get_submodule("body")
        torch.testing.assert_close(body(x)[:1], body(x[:1]), rtol=1e-9, atol=1e-12)
        network.train()
        whole = network(x)[:1]
        network.train()
        assert (whole - network(x[:2])[:1]).abs().max() > 1e-3


@pytest.mark.parametrize(("trainable", "shape"), [("last:1", (192, 2, 2)), ("all", (3, 64, 64))])
def test_gradients_of_units_are_those_of_opacus_hooks(trainable: str, shape: tuple[int, ...]) -> None:
    """One pass for each unit, and hooks as a GPU takes them, through graph, skip connections and folded layers."""
    torch.manual_seed(4)
    model = trained_layout(settings(SMALL, trainable), classes=3).double()
    nn.init.normal_(model.get_submodule("head").weight)  # type: ignore[arg-type]
    x, y = torch.randn(4, *shape), torch.tensor([0, 1, 2, 0])
    ours, theirs = (way(model, x, y, clip=0.1)(range(4)) * 2.0**-44 for way in (OneByOneSum, HookedSum))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert np.abs(ours).max() > 1e-3


def test_the_initial_weights_are_those_of_the_file_and_the_same_each_time(tmp_path: Path) -> None:
    """Hospitals start from one model; a classifier of other classes in the file does not matter."""
    digest = saved(random_network(SMALL, classes=7), tmp_path / "w.pth")
    model = settings(SMALL, "last:1", digest=digest)
    one, again = (
        trainable_vector(trained_part(model, classes=4, weights=tmp_path / "w.pth").double()) for _ in range(2)
    )
    np.testing.assert_array_equal(one, again)
    layout = trained_layout(model, classes=4)
    assert trainable_vector(layout).size == one.size
    assert not one[-4 * 1024 :].any()
    assert np.abs(one[: -4 * 1024]).min() > 0


def test_a_random_start_is_its_seeds() -> None:
    """And nobody else's: torch's generator has no part in it."""

    def start(seed: int) -> NDArray[np.float64]:
        model = settings(SMALL, "all", digest=None, seed=seed)
        return trainable_vector(trained_part(model, classes=2, weights=None))

    torch.manual_seed(1)
    first = start(5)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, start(5))
    assert np.abs(first - start(6)).max() > 0.01


class Opener:
    """What a hostile weights file holds."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("opened",)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the plan names the file; the control is plain pickle."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    torch.save({"x": Opener()}, path)
    model = settings(SMALL, "last:1", digest=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"w\.pth: is no file of weights"):
        load_architecture(model, weights=path)
    assert not (tmp_path / "opened").exists()
    pickle.loads(pickle.dumps(Opener()))  # noqa: S301 -- our own bytes
    assert (tmp_path / "opened").exists()


def test_weights_files_that_are_wrong_get_one_sentence(tmp_path: Path) -> None:
    """Missing, unnamed, of another kind, changed, of another network."""
    path = tmp_path / "w.safetensors"
    digest = saved(random_network(SMALL), path)
    model = settings(SMALL, "last:1", digest=digest)
    with pytest.raises(ConfigError, match=f"weights: seen none; the plan starts from .* sha256 {digest}; get that"):
        load_architecture(model, weights=None)
    with pytest.raises(DataError, match="cannot be read"):
        load_architecture(model, weights=tmp_path / "none.safetensors")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(DataError, match="is a FIFO"):
        load_architecture(model, weights=tmp_path / "pipe.pth")
    with pytest.raises(ConfigError, match=r"a file .safetensors, .pth or .pt is allowed"):
        load_architecture(model, weights=tmp_path / "w.npz")
    with pytest.raises(DataError, match=f"the plan's has {'1' * 16}"):
        load_architecture(settings(SMALL, "last:1", digest="1" * 64), weights=path)
    other = settings("torchvision:mnasnet0_5", "last:1", digest=digest)
    with pytest.raises(DataError, match=r"does not fit 'torchvision:mnasnet0_5': .* tensors are missing"):
        load_architecture(other, weights=path)
    for content in (b"", b"not a file of tensors", path.read_bytes()[:1000]):
        path.write_bytes(content)
        broken = settings(SMALL, "last:1", digest=hashlib.sha256(content).hexdigest())
        with pytest.raises(DataError, match="is no file of weights"):
            load_architecture(broken, weights=path)


@pytest.mark.parametrize(
    ("name", "trainable", "error", "sentence"),
    [
        (
            "torchvision:resnet81",
            "head",
            PlanError,
            "which torchvision does not have; did you mean 'torchvision:resnet",
        ),
        ("timm:nothing_like_it_at_all", "head", PlanError, "which timm does not have; take another name"),
        ("torchvision:squeezenet1_1", "head", PlanError, "does not end in a linear classifier"),
        (SMALL, "last:19", PlanError, "seen 'last:19'; .* has 18 blocks .*so at most 'last:17' is allowed; or 'all'"),
        ("timm:convnext_atto", "last:1", UnsupportedLayer, "LayerNorm2d at head.norm of timm:convnext_atto cannot be"),
        ("timm:vit_tiny_patch16_224", "all", UnsupportedLayer, "VisionTransformer at cls_token of timm:vit_tiny"),
    ],
)
def test_what_cannot_be_trained_is_named(name: str, trainable: str, error: type[Exception], sentence: str) -> None:
    """By the architecture's own names, from the plan alone: before a hospital has charged anything."""
    with pytest.raises(error, match=sentence):
        trained_layout(settings(name, trainable), classes=2)


def test_a_batchnorm_that_cannot_be_folded_is_named() -> None:
    """Of one dimension, behind an activation."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.first(x).relu()))  # type: ignore[no-any-return]

    network = Odd().eval()
    whole = replace(architecture_layout(settings(SMALL, "head")), name="odd", network=network)
    odd = replace(whole, graph=torch.fx.symbolic_trace(network))
    assert block_names(odd) == ("first", "norm", "last")
    with pytest.raises(UnsupportedLayer, match="BatchNorm1d at norm of odd, use GroupNorm"):
        cut(odd, last_blocks=2)


def plan_of(model: NetworkModel, **sections: dict[str, Any]) -> Plan:
    """The small plan with another model."""
    content = {**TEMPLATE, "model": model.model_dump(mode="json")}
    for name, section in sections.items():
        content[name] = {**content[name], **section}
    return parse_settings(yaml.safe_dump(content), Plan, source="small plan")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A weights file and its digest."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    return path, saved(random_network(SMALL), path)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals of a plan with a small network."""
    folder = tmp_path_factory.mktemp("federation")
    provision_small(folder, parse_settings(yaml.safe_dump(TEMPLATE), Plan, source="small plan"))
    return folder


@pytest.fixture
def site(federation: Path, tmp_path: Path) -> SiteConfig:
    """The largest hospital, with a state of its own."""
    config = load_site(federation / "federation" / NAMES[3] / f"{NAMES[3]}.yaml")
    return config.model_copy(update={"state": tmp_path / "state"})


@pytest.fixture
def agreed(site: SiteConfig) -> Plan:
    """What it has agreed to."""
    return parse_settings(site.plan.read_text(), Plan, source="plan")


def with_model(agreed: Plan, model: NetworkModel, **sections: dict[str, Any]) -> Plan:
    """The same hospitals with another model."""
    content = plan_of(model, **sections).model_dump(mode="json")
    size = trainable_vector(plan_layout(plan_of(model))).size
    content["federation"] = agreed.agreed.model_dump(mode="json") | {"trainable_parameters": size}
    content["cohort"], content["encryption"] = (
        getattr(agreed, each).model_dump(mode="json") for each in ("cohort", "encryption")
    )
    return parse_settings(yaml.safe_dump(content), Plan, source="plan")


def load(config: SiteConfig, plan: Plan) -> Learner:
    """The site's own loading code."""
    learner, _ = load_learner(config, plan, on_progress=lambda *_: None)
    return learner


@pytest.mark.parametrize("trainable", ["head", "last:1"])
def test_a_site_trains_what_the_plan_says(trainable: str, site: SiteConfig, agreed: Plan) -> None:
    """With ImageNet's weights noise of two brightnesses is soon told apart."""
    training = {"local_steps": 8, "learning_rate": 4.0, "momentum": 0.5}
    plan = with_model(agreed, settings("lite0", trainable, image_size=32), training=training)
    learner = load(site, plan)
    if trainable == "head":
        assert isinstance(learner._train.x, Tensor)
        torch.testing.assert_close(learner._train.x.norm(dim=1), torch.ones(learner.training_units))
    else:
        assert isinstance(learner._train.x, UnitImages)
    moved = learner.train(learner.initial, feature_mean=NO_MEAN, sigma=0.01)
    counts = learner.confusion(learner.initial + moved, feature_mean=NO_MEAN)
    assert int(counts.sum()) == learner.held_out_units
    assert np.trace(counts) > np.trace(learner.confusion(learner.initial, feature_mean=NO_MEAN))
    assert np.abs(moved[: moved.size // 4]).max() > 1e-3


def test_a_network_is_trained_whole_from_its_seed(site: SiteConfig, agreed: Plan) -> None:
    """First the head, which begins at zero; then all."""
    model = settings(SMALL, "all", digest=None, seed=1, image_size=32)
    plan = with_model(agreed, model, training={"local_steps": 2, "learning_rate": 1.0})
    learner = load(site, plan)
    moved = learner.train(learner.initial, feature_mean=NO_MEAN, sigma=0.01)
    assert np.abs(moved[: moved.size // 4]).max() > 1e-5


def test_an_organiser_needs_no_weights(weights: tuple[Path, str], tmp_path: Path) -> None:
    """The size of the model is agreed on without the file that the hospitals hold; they find the same."""
    path, digest = weights
    provision_small(tmp_path, plan_of(settings(SMALL, "last:1", digest=digest, image_size=32)))
    site = tmp_path / "federation" / NAMES[3] / f"{NAMES[3]}.yaml"
    site.write_text(yaml.safe_dump(yaml.safe_load(site.read_text()) | {"weights": os.path.relpath(path, site.parent)}))
    config = load_site(site)
    plan = parse_settings(config.plan.read_text(), Plan, source="plan")
    assert load(config, plan).initial.size == plan.agreed.trainable_parameters


def test_a_site_without_the_plans_weights_does_not_start(site: SiteConfig, agreed: Plan) -> None:
    """Nothing was charged, no image was decoded."""
    with pytest.raises(ConfigError, match="weights: seen none"):
        load(site, with_model(agreed, settings(SMALL, "last:1", image_size=32)))
    assert not site.ledger.exists()


def test_a_mean_of_features_can_be_told_under_a_frozen_network_only(weights: tuple[Path, str]) -> None:
    """The plan's round of statistics needs features; their number follows from the agreed size."""
    mean = {"mean_share": 0.1}
    with pytest.raises(ConfigError, match="it has no features"):
        plan_of(settings(SMALL, "last:1", digest=weights[1]), privacy=mean)
    assert plan_of(settings(SMALL, "head", digest=weights[1]), privacy=mean).stat_rounds == 1


def rows_of(table: ImageTable, model: NetworkModel, path: Path | None, folder: Path) -> Tensor | UnitImages:
    """What training takes."""
    x, _ = network_units(
        table,
        model,
        weights=path,
        compute=CPU,
        cache=folder / "cache",
        on_progress=lambda *_: None,
        on_undecodable="refuse",
    )
    return x


def test_kept_activations_are_those_of_each_step(
    weights: tuple[Path, str], federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, whatever is kept; and an image's row is its own, whoever else is there."""
    table = load_table(federation / "shards" / NAMES[0], on_undecodable="refuse", unit="record", patient_column="auto")
    model = settings(SMALL, "last:1", digest=weights[1], image_size=32)
    kept = rows_of(table, model, weights[0], tmp_path)
    monkeypatch.setattr("client.network_units.MOST_KEPT_PER_IMAGE", 0)
    anew = rows_of(table, model, weights[0], tmp_path)
    assert isinstance(kept, UnitImages)
    assert isinstance(anew, UnitImages)
    assert kept.pixels.dtype == torch.float32
    assert anew.pixels.dtype == torch.uint8
    all_units = range(len(kept))
    assert torch.equal(kept.firsts()[all_units], anew.firsts()[all_units])
    assert torch.equal(anew.firsts()[all_units][2:3], anew.firsts()[[2]])


def test_features_of_another_version_of_the_library_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update may change an architecture's code, and none of its tensors: what stands in the cache would be stale."""

    def key(architecture: str) -> str:
        frozen = FrozenNetwork(settings(architecture, "head"), None, (8,))
        return FeatureRecipe(image_size=32, views=1, compute=CPU, backbone=frozen).key()

    installed = metadata.version
    before = {name: key(name) for name in (SMALL, "timm:resnet18", "lite0")}
    assert before == {name: key(name) for name in before}
    monkeypatch.setattr(
        metadata, "version", lambda name: "99.0" if name in {"torchvision", "timm"} else installed(name)
    )
    assert key(SMALL) != before[SMALL]
    assert key("timm:resnet18") != before["timm:resnet18"]
    assert key("lite0") == before["lite0"]  # control: fedward's own code


def test_little_is_kept_of_large_images() -> None:
    """The rule that docs/models.md states."""
    assert small_enough((512, 7, 7), 5000)
    assert not small_enough((512, 7, 7), 6000)
    assert not small_enough((64, 56, 56), 1)


def test_a_unit_of_several_images_is_one_row(weights: tuple[Path, str], tmp_path: Path) -> None:
    """The mean of their features where the head is trained, a fresh draw where blocks are."""
    write_images(tmp_path / "data", per_class=6, seed=1)
    names = sorted((tmp_path / "data").glob("*/*.png"))
    lines = [f"{p.parent.name}/{p.name},{p.parent.name},{p.parent.name}-{k % 3}" for k, p in enumerate(names)]
    (tmp_path / "data" / "index.csv").write_text("\n".join(("path,label,lesion_id", *lines)) + "\n")
    table = load_table(tmp_path / "data", on_undecodable="refuse", unit="patient", patient_column="auto")
    vectors = np.random.default_rng(1).uniform(0, 1, (12, 6)).astype(np.float32)
    rows = mean_features(PooledFeatures(table, vectors, 0))
    assert rows.shape == (6, 6)
    first = vectors[[record.unit == "lesion:dark-0" for record in table.records]].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    x = rows_of(table, settings(SMALL, "last:1", digest=weights[1], image_size=32), weights[0], tmp_path)
    assert isinstance(x, UnitImages)
    assert x.counts.tolist() == [2] * 6
    assert len({float(x[[0]].double().sum()) for _ in range(40)}) == 2


def test_a_frozen_network_takes_the_plans_normalisation_and_views(federation: Path, tmp_path: Path) -> None:
    """Other constants give other features, and another cache file."""
    part = frozen_part(settings("lite0", "head"), weights=None)
    assert part is not None
    assert part.shape == (1280,)
    assert not any(p.requires_grad for p in part.layers.parameters())
    table = load_table(federation / "shards" / NAMES[0], on_undecodable="refuse", unit="record", patient_column="auto")
    changes: tuple[dict[str, Any], ...] = ({}, {"mean": (0.1, 0.1, 0.1)}, {"views": 4})
    models = (settings("lite0", "head", **{"image_size": 32, **each}) for each in changes)
    seen = [rows_of(table, model, None, tmp_path) for model in models]
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 3
    first, *others = (x for x in seen if isinstance(x, Tensor))
    assert len(others) == 2
    assert all(float((x - first).abs().max()) > 1e-4 for x in others)


def test_a_finished_network_is_scored_with_the_plans_weights(
    weights: tuple[Path, str], site: SiteConfig, agreed: Plan, tmp_path: Path
) -> None:
    """`fedward evaluate` runs the frozen part from the file, and the trained part from the results."""
    path, digest = weights
    plan = with_model(agreed, settings(SMALL, "last:1", digest=digest, image_size=32))
    trained = trained_part(plan.model, classes=2, weights=path) if isinstance(plan.model, NetworkModel) else None
    assert trained is not None
    described = json.dumps({"classes": list(plan.data.classes)})
    save_file(trained.state_dict(), tmp_path / "model.safetensors", metadata={"fedward": described})
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    score = evaluate(tmp_path, site.data, weights=path)
    assert score.units == int(score.confusion.sum()) > 0
    with pytest.raises(ConfigError, match="weights: seen none"):
        evaluate(tmp_path, site.data)


def test_a_pass_in_a_process_of_its_own_gives_the_same(
    weights: tuple[Path, str], federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many images are run there; what it is given must say all of the frozen part."""
    table = load_table(federation / "shards" / NAMES[0], on_undecodable="refuse", unit="record", patient_column="auto")
    model = settings(SMALL, "head", digest=weights[1], image_size=32)
    here = rows_of(table, model, weights[0], tmp_path / "here")
    monkeypatch.setattr("client.feature_process.FEWEST_VIEWS", 1)
    apart = rows_of(table, model, weights[0], tmp_path / "apart")
    assert isinstance(here, Tensor)
    assert isinstance(apart, Tensor)
    assert torch.equal(here, apart)
