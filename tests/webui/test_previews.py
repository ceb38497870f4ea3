"""The preview pictures beside LoRAs, made small for the page."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from lib_transfer.webui.host.settings import settings
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.shell.form import FormValues
from lib_transfer.webui.transfer.events import TransferEvents
from lib_transfer.webui.transfer.form import order_controls
from lib_transfer.webui.transfer.preview import SIDE, preview
from tests.webui import models


def shown(adapter: Path) -> Image.Image:
    """The preview as the browser gets it."""
    kind, _, data = preview(adapter).partition(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format == "JPEG"
    return picture


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".gif", ".preview.png", ".preview.webp"])
def test_every_kind_is_made_small(tmp_path: Path, ending: str) -> None:
    adapter = tmp_path / "a.lora.safetensors"
    picture = Image.new("RGB", (400, 800), (200, 60, 30))
    picture.convert("P" if ending == ".gif" else "RGB").save(tmp_path / f"a.lora{ending}")
    made = shown(adapter)
    assert made.size == (SIDE // 2, SIDE)
    assert max(abs(a - b) for a, b in zip(made.getpixel((10, 10)), (200, 60, 30), strict=True)) < 30


def test_a_changed_picture_is_read_again_and_the_first_name_wins(tmp_path: Path) -> None:
    adapter = tmp_path / "a.safetensors"
    assert preview(adapter) == ""
    Image.new("RGBA", (50, 50), (0, 0, 255, 255)).save(tmp_path / "a.preview.png")
    assert shown(adapter).getpixel((5, 5))[2] > 200
    Image.new("RGB", (50, 50), (255, 0, 0)).save(tmp_path / "a.png")
    assert shown(adapter).getpixel((5, 5))[0] > 200
    Image.new("RGB", (51, 51), (0, 255, 0)).save(tmp_path / "a.png")
    os.utime(tmp_path / "a.png", (1, 1))
    assert shown(adapter).getpixel((5, 5))[1] > 200


def bomb(width: int, height: int) -> bytes:
    """A small PNG file of a very large picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (8_000, 8_000), (1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_left_out(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(bomb(*size))
    # Not even begun to be read.
    monkeypatch.setattr(Image.Image, "thumbnail", lambda *_: pytest.fail("it was read"))
    assert preview(tmp_path / "a.safetensors") == ""


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(50), bomb(500, 500)[:60]])
def test_a_broken_picture_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert preview(tmp_path / "a.safetensors") == ""


def test_what_is_no_picture_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "a.webp").symlink_to(tmp_path / "nowhere")
    Image.new("RGB", (10, 10)).save(tmp_path / "a.gif", "TIFF")
    assert preview(tmp_path / "a.safetensors") == ""


def test_the_setting_hides_them(tmp_path: Path, checkpoints: Path) -> None:
    (tmp_path / "Stable-diffusion").mkdir()
    for name in (models.BASE, models.TUNED):
        os.link(checkpoints / name, tmp_path / "Stable-diffusion" / name)
    adapter = models.lora(tmp_path, "folder/a")
    Image.new("RGB", (50, 50)).save(adapter.with_suffix(".png"))
    host = Standalone(tmp_path, tmp_path / "cache")
    events = TransferEvents(TabEvents(host))
    values: FormValues = {name: host.setting(name) for name in order_controls()[4:]}
    choice = {"adapters": ["folder/a"], "target": models.TUNED, "source": None, "method": "Rotation", "question": "1"}
    assert f'src="{preview(adapter)}"' in events.looked({**values, **choice})["chosen"]
    host.store({setting.key: host.setting(setting.key) for setting in settings()} | {"previews": False})
    assert "<img" not in events.looked({**values, **choice})["chosen"]
    assert "folder/a" in events.looked({**values, **choice})["chosen"]
