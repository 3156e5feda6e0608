"""Image files to pixels, upright and in the colours asked for, through Pillow (extra ``video``)."""

from __future__ import annotations

import io
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentio.core.errors import InputError, MissingExtraError

Pixels = NDArray[np.uint8]
#: Pillow's modes of more than eight bits
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
#: what decoders raise on damaged files, such as one that says it goes on for petabytes
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError, MemoryError)


def read_picture(path: str | PathLike[str], *, grey: bool = False) -> tuple[Pixels, tuple[str, ...]]:
    """One picture of a file, turned as its camera says.

    Transparent parts stand before black; of an animation the first picture is taken, and CMYK is converted
    without its colour profile. Each of these is told in a note.

    Args:
        path: JPEG, PNG, GIF, WebP, TIFF, BMP, portable any-map, or what else Pillow reads.
        grey: one channel, the luminance of ITU-R 601, in place of three.

    Returns:
        uint8 ``(height, width, 3)``, or ``(height, width, 1)``; and notes.

    Raises:
        InputError: there is no such file, it cannot be opened, it is no picture, it is damaged, empty or too
            large, or its pixels have more than eight bits and no agreed range.
        MissingExtraError: Pillow is not installed.
    """
    image_module, ops = _pillow()
    shown = Path(path)
    if not shown.is_file():
        raise InputError(f"There is no image file {shown}; check the path")
    # Read first: Pillow keeps files open, and reports a short file in many ways.
    try:
        content = shown.read_bytes()
    except OSError as error:
        raise InputError(f"{shown} cannot be opened: {error.strerror or error}; check the file") from error
    if not content:
        raise InputError(f"{shown} is empty; copy or download the image again")
    notes = []
    with warnings.catch_warnings():
        # Pillow warns of damaged tags, and of half the size that it refuses; neither changes the pixels.
        warnings.simplefilter("ignore")
        try:
            with image_module.open(io.BytesIO(content)) as image:
                if getattr(image, "n_frames", 1) > 1:
                    notes.append(f"{shown} holds {image.n_frames} pictures; the first one is used")
                image.load()
                upright = ops.exif_transpose(image)
                pixels = _converted(image_module, upright, grey, shown, notes)
        except image_module.UnidentifiedImageError as error:
            raise InputError(f"{shown} is no image that can be read; convert it to PNG or JPEG") from error
        except image_module.DecompressionBombError as error:
            raise InputError(f"{shown} has too many pixels ({error}); scale it down") from error
        except _DAMAGED as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise InputError(f"{shown} is damaged ({reason}); copy or download the image again") from error
    return pixels, tuple(notes)


def picture_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(height, width) of a picture file once it is turned as its camera says; its pixels are not read.

    Raises:
        InputError: there is no such file, it is no picture, or it has more pixels than are read.
        MissingExtraError: Pillow is not installed.
    """
    image_module, _ = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as `read_picture` does
            with image_module.open(path) as image:
                width, height = image.size
                if image.format == "TIFF":  # whose size is the upright one already
                    width, height = image.tag_v2[256], image.tag_v2[257]
                # Tag 274 is the orientation; from 5 on the picture lies on its side.
                return (width, height) if image.getexif().get(274, 1) >= 5 else (height, width)
    except image_module.DecompressionBombError as error:
        raise InputError(f"{path} has too many pixels ({error}); scale it down") from error
    except _DAMAGED as error:
        raise InputError(f"{path} is no image that can be read; convert it to PNG or JPEG") from error


def _converted(module: Any, image: Any, grey: bool, shown: Path, notes: list[str]) -> Pixels:
    if image.mode in DEEP:
        image = module.fromarray(_eight_bits(np.asarray(image), shown))
        notes.append(f"{shown} has 16 bits per pixel; the upper 8 are used")
    if image.mode == "LAB":
        image = _from_lab(image, shown)
    if image.mode == "CMYK":
        notes.append(f"{shown} is in the colours of a printer (CMYK); they are converted without a profile")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        if layered.getextrema()[3][0] < 255:
            notes.append(f"{shown} is transparent in parts; they stand before black")
        ground = module.new("RGBA", layered.size, (0, 0, 0, 255))
        image = module.alpha_composite(ground, layered)
    found = np.asarray(image.convert("L" if grey else "RGB"))
    return np.ascontiguousarray(found[:, :, None] if grey else found)


def _from_lab(image: Any, shown: Path) -> Any:
    """A picture in CIE L*a*b* as RGB, which Pillow converts through colour profiles only."""
    from PIL import ImageCms

    try:
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    except (ImportError, ImageCms.PyCMSError) as error:
        raise InputError(
            f"{shown} is in the colours L*a*b*, which Pillow cannot convert here ({error}); convert it to RGB"
        ) from error


def _eight_bits(values: NDArray[Any], shown: Path) -> Pixels:
    # Pillow widens 16 bits to 32 where a format has no mode of its own for them.
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"{shown} holds pixels of {values.dtype}, whose range is not known; "
            "convert it to 8 bits per colour"
        )
    return (values >> 8).astype(np.uint8)


def resized(pixels: Pixels, size: tuple[int, int], box: tuple[float, float, float, float]) -> Pixels:
    """Part of a picture in another size: bilinear, over as many pixels as become one.

    Args:
        pixels: uint8 ``(height, width, channel)`` of one or three channels.
        size: (height, width) that comes out.
        box: the part: left, top, right, bottom in pixels.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    image_module, _ = _pillow()
    grey = pixels.shape[2] == 1
    image = image_module.fromarray(pixels[:, :, 0] if grey else pixels)
    scaled = np.asarray(image.resize(size[::-1], image_module.Resampling.BILINEAR, box=box))
    return scaled[:, :, None] if grey else scaled


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pillow, which image files need,", "video") from error
    return Image, ImageOps
