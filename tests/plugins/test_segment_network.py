"""ResHedNet: its size is the published one, what predicts is what was trained, and files of weights are checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.network import build, count_parameters, for_inference
from probeloop.plugins.segment.rival import PublishedPredictor
from probeloop.plugins.segment.weights import Card, load, read_card, save

from probeloop.api import DropInError

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="no safetensors: pip install 'probeloop[ml]'")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def lived(filters: int = 4) -> Any:
    """A network whose batch norms have seen something."""
    network = build(filters).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 1, 32, 32))
    return network.eval()


@pytest.mark.parametrize(("filters", "count"), [(64, 7_673_933), (32, 1_922_093), (16, 482_333)])
def test_it_has_as_many_parameters_as_published(filters: int, count: int) -> None:
    assert count_parameters(build(filters)) == count


def test_three_scales_are_fused() -> None:
    network = lived()
    x = torch.randn(2, 1, 20, 36)
    fused, sides = network.with_sides(x)
    assert fused.shape == (2, 1, 20, 36)
    assert sides.shape == (2, 3, 20, 36)
    weights, bias = network.fuse.weight.reshape(3, 1, 1), network.fuse.bias
    assert torch.allclose(fused[:, 0], (sides * weights).sum(1) + bias, atol=1e-5)


def test_what_predicts_says_what_was_trained() -> None:
    network, x = lived(), torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        plain = torch.sigmoid(network(x))
        folded = torch.sigmoid(for_inference(network, bfloat=False)(x))
        short = torch.sigmoid(for_inference(network, bfloat=True)(x.bfloat16()).float())
    assert torch.allclose(folded, plain, atol=1e-5)
    assert float((short - plain).abs().max()) < 0.03
    assert network.scales[0][0].first_norm.weight is not None  # the trained one is left as it was


def test_the_ensemble_says_what_the_published_predictor_says() -> None:
    members = [lived() for _ in range(3)]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 44)).cumsum(axis=1)
    made = Ensemble(members, Card(4, 3), bfloat=False).predict(values, keep_each=True)
    from probeloop.plugins.segment.prepare import prepared

    mean, variance = PublishedPredictor(build(4), [m.state_dict() for m in members]).predict(prepared(values))
    assert np.abs(made.mean - mean).max() < 1e-4
    assert np.abs(made.variance - variance).max() < 1e-4
    assert made.each is not None
    assert np.allclose(made.each.mean(axis=0), made.mean, atol=1e-6)


def test_members_look_at_the_map_flipped_their_own_way() -> None:
    from probeloop.plugins.segment.prepare import prepared

    network = lived()
    values = np.random.default_rng(0).normal(size=(40, 44)).cumsum(axis=1)
    made = Ensemble([network] * 5, Card(4, 5, flipped=True), bfloat=False).predict(values, keep_each=True).each
    assert made is not None
    shown = prepared(values)
    for i, turn in enumerate([(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 1)]):
        x = torch.from_numpy(shown[:: turn[0], :: turn[1]].copy())[None, None]
        with torch.inference_mode():
            alone = torch.sigmoid(network(x))[0, 0].numpy()[:: turn[0], :: turn[1]]
        assert np.abs(made[i] - alone).max() < 1e-4
    assert np.abs(made[1] - made[0]).max() > 1e-3


def test_members_side_by_side_say_the_same() -> None:
    made = Ensemble([lived() for _ in range(3)], Card(4, 3, flipped=True), bfloat=False)
    values = np.random.default_rng(0).normal(size=(40, 44)).cumsum(axis=1)
    one = made.predict(values, keep_each=True)
    torch.set_num_threads(2)
    try:
        two = made.predict(values, keep_each=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert one.each is not None
    assert two.each is not None
    assert np.abs(one.each - two.each).max() < 1e-5
    assert np.abs(one.disagreement - two.disagreement).max() < 1e-5


def test_a_large_map_goes_through_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.plugins.segment import ensemble

    members = [lived()]
    values = np.random.default_rng(0).normal(size=(300, 32)).cumsum(axis=0)
    whole = Ensemble(members, Card(4, 1), bfloat=False).predict(values).mean
    monkeypatch.setattr(ensemble, "_STRIP", 128 * 32)
    strips = Ensemble(members, Card(4, 1), bfloat=False).predict(values).mean
    assert strips.shape == (300, 32)
    assert np.abs(strips - whole).max() < 1e-4


def test_weights_come_back(tmp_path: Path) -> None:
    members = [lived(), lived()]
    save(
        tmp_path / "w.safetensors", [m.state_dict() for m in members], Card(4, 2, threshold=0.4, trained={"seed": 3})
    )
    again, card = load(tmp_path / "w.safetensors")
    assert (card.members, card.threshold, card.trained) == (2, 0.4, {"seed": 3})
    x = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        for one, other in zip(members, again, strict=True):
            assert torch.allclose(torch.sigmoid(one(x)), torch.sigmoid(other(x)), atol=3e-3)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def rewritten(path: Path, change: Any) -> None:
    """Change the metadata of a file of weights, leave its tensors."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def broken(path: Path, how: str) -> None:
    raw = path.read_bytes()
    if how == "pickle":
        torch.save({"a": 1}, path)
    elif how == "bare pickle":
        path.write_bytes(b"\x80\x04\x95" + bytes(40))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "noise":
        path.write_bytes(bytes(range(256)) * 20)
    elif how == "version":
        rewritten(path, lambda header: header["__metadata__"].update(version="7"))
    elif how == "foreign":
        rewritten(path, lambda header: header["__metadata__"].update(format="other"))
    elif how == "card":
        rewritten(path, lambda header: header["__metadata__"].update(card="{"))
    else:
        state = safetensors_torch.load_file(path)
        with safetensors_torch.safe_open(path, "pt") as file:
            told = file.metadata()
        name = "0.scales.0.0.first.weight"
        if how == "shape":
            state[name] = state[name][:2].clone()
        elif how == "not finite":
            state[name][0, 0, 0, 0] = float("nan")
        elif how == "lacks":
            del state[name]
        elif how == "stranger":
            state["9.fuse.bias"] = torch.zeros(1)
        safetensors_torch.save_file(state, path, metadata=told)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("pickle", "is a pickle"),
        ("bare pickle", "is a pickle"),
        ("empty", "no safetensors file"),
        ("cut", "corrupt"),
        ("noise", "no safetensors file"),
        ("version", "has version 7, this program reads version 2"),
        ("foreign", "no weights of this plug-in"),
        ("card", "card is unreadable"),
        ("shape", "is \\(2, 4, 3, 3\\), not \\(4, 4, 3, 3\\)"),
        ("not finite", "holds what is no number"),
        ("lacks", "lacks scales.0.0.first.weight"),
        ("stranger", "1 tensors of no member"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(how: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save(path, [lived().state_dict()], Card(4, 1))
    broken(path, how)
    with pytest.raises(DropInError, match=said) as refused:
        load(path)
    assert "\n" not in str(refused.value)
    assert "probeloop train segment" in str(refused.value)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DropInError, match=r"no weights at .*nowhere"):
        read_card(tmp_path / "nowhere.safetensors")
