import io

import numpy as np
import pytest
import torch
from PIL import Image

from federation.blueprint import weights
from federation.learning.generator import architecture as arch
from federation.learning.generator.sampler import sample
from federation.learning.generator.sheet import sheet_png
from kit.errors import FormatError, KitError

SHAPES = [
    ("tiny", 1, 8, 8),
    ("tiny", 3, 9, 11),
    ("tiny-wide", 1, 16, 16),
    ("small", 3, 28, 28),
    ("small", 1, 30, 17),
    ("large", 3, 64, 50),
]


def architecture(preset="tiny", channels=1, height=8, width=8, num_classes=3):
    named = arch.reference(preset)
    return arch.Architecture(
        kind=named.kind,
        version=named.version,
        preset=preset,
        channels=channels,
        height=height,
        width=width,
        num_classes=num_classes,
    )


@pytest.mark.parametrize(("preset", "channels", "height", "width"), SHAPES)
def test_network_keeps_the_shape_and_has_exactly_the_expected_tensors(
    preset, channels, height, width
):
    described = architecture(preset, channels, height, width)
    network = arch.build_network(described)
    x = torch.randn(2, channels, height, width)
    with torch.no_grad():
        y = network(x, torch.tensor([0.1, 5.0]), torch.tensor([0, 2]))
    assert y.shape == x.shape
    found = {n: ("BF16", tuple(t.shape)) for n, t in network.state_dict().items()}
    assert found == arch.expected_tensors(described)
    assert found[arch.class_embedding_name(described)][1][0] == 3
    assert not list(network.buffers())


@pytest.mark.parametrize("preset", sorted(arch.DIFFUSION.presets))
def test_networks_hold_only_layers_with_exact_per_unit_gradients(preset):
    side = arch.presets()[preset].max_side_px
    network = arch.build_network(architecture(preset, height=side, width=side))
    kinds = {type(m).__name__ for m in network.modules() if list(m.parameters(recurse=False))}
    assert kinds <= {"Conv2d", "Linear", "GroupNorm", "Embedding"}
    assert all(m.p == 0 for m in network.modules() if isinstance(m, torch.nn.Dropout))


def test_table_reads_back_and_reading_needs_exact_fields():
    table = architecture().to_table()
    assert arch.Architecture.from_table(table) == architecture()
    wrongs = [
        table | {"extra": 1},
        {k: v for k, v in table.items() if k != "width"},
        table | {"kind": "other"},
        table | {"kind": ["edm-unet2d"]},
        table | {"kind": "class-gaussian"},
        table | {"preset": "moments"},
        table | {"version": 2},
        table | {"version": True},
        table | {"preset": "huge"},
        table | {"preset": ["tiny"]},
        table | {"channels": 2},
        table | {"channels": True},
        table | {"height": 65},
        table | {"height": 7},
        table | {"width": 8.0},
        table | {"num_classes": 0},
        table | {"num_classes": 1001},
        [],
        None,
    ]
    for wrong in wrongs:
        with pytest.raises(FormatError):
            arch.Architecture.from_table(wrong)


@pytest.mark.parametrize(
    ("side", "preset"), [((8, 8), "tiny"), ((28, 28), "small"), ((64, 64), "large")]
)
def test_default_preset_fits_the_size(side, preset):
    assert arch.default_preset(*side) == preset


def test_default_preset_covers_every_square_and_refuses_what_is_too_large():
    for side in range(8, 65):
        assert arch.default_preset(side, side) in arch.presets()
    with pytest.raises(KitError, match="no generator preset"):
        arch.default_preset(65, 65)


def test_weights_load_strictly_and_read_back():
    torch.manual_seed(1)
    source, target = arch.build_network(architecture()), arch.build_network(architecture())
    tensors = arch.state_arrays(source)
    arch.load_weights(target, tensors)
    for name, array in arch.state_arrays(target).items():
        assert np.array_equal(array, tensors[name])
    name = arch.class_embedding_name(architecture())
    for wrong in (
        {n: a for n, a in tensors.items() if n != name},
        tensors | {"more": np.zeros(1, np.float32)},
        tensors | {name: tensors[name][:2]},
    ):
        with pytest.raises(FormatError):
            arch.load_weights(target, wrong)


def test_bfloat16_on_the_wire_hardly_changes_a_sample():
    torch.manual_seed(2)
    described = architecture()
    network, received = arch.build_network(described), arch.build_network(described)
    data = weights.write(arch.state_arrays(network))
    arch.load_weights(received, weights.read(data, arch.expected_tensors(described)))
    labels = torch.arange(3).repeat(4)
    how = {"seed": 1, "steps": 8, "batch_size": 12}
    before = sample(network, described, labels, **how)
    after = sample(received, described, labels, **how)
    assert not torch.equal(before, after)
    assert float((before - after).square().mean().sqrt()) < 0.03  # of a range of 2
    other = sample(network, described, labels, **how | {"seed": 2})
    assert float((before - other).square().mean().sqrt()) > 0.1


def test_sheet_is_a_deterministic_readable_png_without_text():
    grey = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
    colour = np.zeros((3, 3, 28, 20), np.float32)
    data = sheet_png({"first class": grey, "second": colour})
    assert data == sheet_png({"first class": grey, "second": colour})
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info == {}
    assert image.height >= 2 * 56
    assert image.width >= 3 * 40
    assert len(np.unique(np.asarray(image))) > 50


def test_reading_an_architecture_loads_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from federation.learning.generator import architecture;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
