"""Image files to model input: LLaVA-1.5's preprocessing up to the normalisation, which runs on the device."""

import contextlib
import errno
import io
import math
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tga_jax.data import resize
from tga_jax.errors import UserError

Color = tuple[int, int, int]
CLIP_COLOR: Color = (122, 116, 104)  # int(255 * CLIP's mean)
MODES = ("pad", "crop", "stretch")
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Of a file, and of a picture, checked before either is read; Pillow needs several bytes for every pixel of a side.
MAX_BYTES, MAX_PIXELS, MAX_SIDE = 2**28, 100_000_000, 2**17
# Of formats whose decoders take several times the memory that their pictures do.
_MAX_PIXELS = {"JPEG2000": 25_000_000, "WEBP": 50_000_000, "AVIF": 50_000_000}
MAX_SQUARE = 10_000  # to pad: of a square that is made as a whole, and then has MAX_PIXELS
_STRIP = 2**22  # pixels of deep grey that are scaled at once
LONG = 16  # times the result's side: a longer picture is not resized as a whole

_LYING = range(5, 9)  # EXIF's orientations that swap height and width

# Not all that Pillow opens: EPS, for one, would be run as a program by Ghostscript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Of huge pictures, which `decode` refuses itself, and of odd metadata, which is not read.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, name: str, draft: tuple[int, str] | None = None) -> Image.Image:
    """The picture that a file's bytes hold: RGB, upright (EXIF), the first frame. name: of the file, for messages.

    draft: the size and mode of the `preprocess` to follow; a JPEG is then decoded at a half, a quarter or an eighth
    where twice that size is left and its edges divide evenly: faster, and pixels change slightly.

    Raises UserError naming the file: not a picture, truncated, or of more than `MAX_PIXELS` pixels or `MAX_SIDE` on a
    side.
    """
    with _named(name):
        image = _opened(data)
        if draft:
            size, mode = draft
            edge = (max if mode == "pad" else min)(image.size)  # the first to become `size`
            # Edges that are no multiples would be rounded, which shifts the picture.
            fits = [k for k in (8, 4, 2) if edge >= 2 * k * size and not any(e % k for e in image.size)]
            if fits:
                image.draft("RGB", (image.width // fits[0], image.height // fits[0]))
        ImageOps.exif_transpose(image, in_place=True)
        return to_rgb(image)


def size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of what `decode` makes of a file's bytes, from its header. Raises UserError as it does, but for
    what only decoding finds."""
    with _named(name):
        image = _opened(data)
        lies = image.getexif().get(ExifTags.Base.Orientation, 1) in _LYING
        lies = lies and image.format != "TIFF"  # whose size Pillow has upright at once
        return (image.width, image.height) if lies else (image.height, image.width)


def _opened(data: bytes) -> Image.Image:
    """Not decoded yet. Raises ValueError, or what Pillow raises."""
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    _check_size(image)
    return image


def _check_size(image: Image.Image) -> None:
    most = _MAX_PIXELS.get(image.format or "", MAX_PIXELS)
    if image.width * image.height > most:
        raise ValueError(f"{image.width} x {image.height} pixels, expected at most {most:,}")
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"{image.width} x {image.height} pixels, expected sides of at most {MAX_SIDE:,}")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of reading a picture become UserError naming the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: cannot be read as an image (in no known format)") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, which does not say the size
        least = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"more than {least:,} pixels, expected at most {MAX_PIXELS:,}"
        raise UserError(f"{name}: cannot be read as an image ({reason})") from error
    except Exception as error:  # of many types: damaged files get far into Pillow's readers
        reason = str(error) or type(error).__name__
        raise UserError(f"{name}: cannot be read as an image ({reason})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """As Pillow converts it, but grey of 16 or 32 bits is scaled to 8 bits, where Pillow cuts it off at 255.

    Transparency is dropped, as LLaVA and transformers' `load_image` do. 32-bit pixels have no agreed white: whole
    numbers of 0 to 65535 count as 16-bit and fractions of 0 to 1 as shares of white; others are stretched from their
    least to their greatest.
    """
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image)
        low, high = float(pixels.min()), float(pixels.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("pixels that are no finite numbers")
        grey, rows = np.empty(pixels.shape, np.uint8), max(1, _STRIP // image.width)
        for at in range(0, len(pixels), rows):
            strip = pixels[at : at + rows]
            if image.mode.startswith("I") and low >= 0 and high < 1 << 16:
                strip = strip >> 8  # the high byte, as Pillow reads 16-bit colour
            elif low >= 0 and high <= 1:
                strip = np.rint(strip * 255.0)
            else:
                strip = np.rint((strip.astype(np.float64) - low) * (255 / max(high - low, 1e-30)))
            grey[at : at + rows] = strip.astype(np.uint8)
        image = Image.fromarray(grey)
    return image if image.mode == "RGB" else image.convert("RGB")


def color_of(mean: tuple[float, float, float]) -> Color:
    """Of a tower's mean pixel."""
    red, green, blue = (int(255 * share) for share in mean)
    return red, green, blue


def pad_to_square(image: Image.Image, color: Color = CLIP_COLOR) -> Image.Image:
    """The RGB image centred on a square of one colour; the smaller margin comes first."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def preprocess(
    image: Image.Image,
    size: int,
    mode: str = "pad",
    fast: bool = False,
    resample: str = "bicubic",
    color: Color = CLIP_COLOR,
) -> np.ndarray:
    """uint8 [size, size, 3]: the shortest edge resized, the centre cut out.

    mode: "pad" makes the image a square first, as LLaVA-1.5 does, so that nothing is cut; "crop" is CLIP's own;
    "stretch" resizes both edges, whatever becomes of their proportion.
    fast: with "pad", the margins are left out of the resizing; a few values differ, by 2 of 255 at most.
    resample: one of `RESAMPLING`; color: around a padded picture, `color_of` the tower's mean pixel.

    The pixels are those of transformers' processors on Pillow. Memory is bounded for pictures of any shape: long ones
    are never resized, nor padded, as a whole. Raises UserError for one of more than `MAX_PIXELS`, or `MAX_SIDE` on a
    side.
    """
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r}, expected one of {', '.join(MODES)}")
    try:
        _check_size(image)
    except ValueError as error:
        raise UserError(str(error)) from error
    image = to_rgb(image)
    if mode == "pad":
        if max(image.size) > MAX_SQUARE:
            return _padded_window(image, size, resample, color)
        if fast:
            return _pad_and_resize(image, size, resample, color)
        image = pad_to_square(image, color)
    elif mode == "stretch":
        return np.asarray(image.resize((size, size), RESAMPLING[resample]))
    short = min(image.size)
    width, height = (size if edge == short else int(size * edge / short) for edge in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if max(width, height) > LONG * size:
        x = resize.Axis(image.width, width, left, size, resample=resample)
        y = resize.Axis(image.height, height, top, size, resample=resample)
        return _cropped_window(image, x, y)
    resized = np.asarray(image.resize((width, height), RESAMPLING[resample]))
    return resized[top : top + size, left : left + size]


def _cropped_window(image: Image.Image, x: resize.Axis, y: resize.Axis) -> np.ndarray:
    """What is seen of the picture resized as a whole, which is never made."""
    (left, right), (top, bottom) = x.reach(), y.reach()
    part = np.asarray(image.crop((left, top, right, bottom)))
    return resize.window(part, x._replace(start=left), y._replace(start=top))


def _padded_window(image: Image.Image, size: int, resample: str, color: Color) -> np.ndarray:
    """The padded square resized, which is never made."""
    side = max(image.size)
    x, y = (resize.Axis(side, size, 0, size, (side - edge) // 2, resample) for edge in image.size)
    return resize.window(np.asarray(image), x, y, color)


def _pad_and_resize(image: Image.Image, size: int, resample: str, color: Color) -> np.ndarray:
    """The square padded and resized, of which only the part that the picture reaches is ever made."""
    side = max(image.size)
    scale = side / size
    reach = 2 * max(scale, 1)  # pixels of the square that resizing looks at, either way, at most
    corner, box, ends = [], [], []
    for edge in image.size:
        before = (side - edge) // 2
        first = max(0, math.floor((before - reach) / scale))  # of the pixels of the result that may see the picture
        last = min(size, math.ceil((before + edge + reach) / scale))
        start = max(0, math.floor(first * scale - reach))  # of what these pixels see of the square
        stop = min(side, math.ceil(last * scale + reach))
        corner.append(before - start)
        box.append((first * scale - start, last * scale - start, stop - start))
        ends.append((first, last))
    (left, right, width), (upper, lower, height) = box
    part = Image.new("RGB", (width, height), color)
    part.paste(image, tuple(corner))
    (first_x, last_x), (first_y, last_y) = ends
    # One direction at a time: left to itself, Pillow begins with the cheaper one, which rounds otherwise.
    part = part.resize((last_x - first_x, height), RESAMPLING[resample], (left, 0, right, height))
    part = part.resize((part.width, last_y - first_y), RESAMPLING[resample], (0, upper, part.width, lower))
    result = Image.new("RGB", (size, size), color)
    result.paste(part, (first_x, first_y))
    return np.asarray(result)


def read(
    data: bytes,
    name: str,
    size: int,
    mode: str = "pad",
    fast: bool = False,
    resample: str = "bicubic",
    color: Color = CLIP_COLOR,
) -> np.ndarray:
    """uint8 [size, size, 3]: a file's bytes, decoded and preprocessed. Raises UserError as `decode` does.

    fast: about half the work for a photograph much larger than `size`; pixels change slightly.
    """
    image = decode(data, name, (size, mode) if fast else None)
    return preprocess(image, size, mode, fast, resample, color)


def load(path: Path, size: int, mode: str = "pad", resample: str = "bicubic", color: Color = CLIP_COLOR) -> np.ndarray:
    """A file, preprocessed. Raises UserError naming the file."""
    return read(_bytes(path), str(path), size, mode, False, resample, color)


def open_file(path: Path) -> Image.Image:
    """A file, decoded. Raises UserError naming the file."""
    return decode(_bytes(path), str(path))


def file_bytes(path: Path) -> bytes:
    """Raises OSError, also for what would never end, such as a pipe, and for more than `MAX_BYTES`."""
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "no regular file")
    if found.st_size > MAX_BYTES:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, expected at most {MAX_BYTES:,}")
    return path.read_bytes()


def _bytes(path: Path) -> bytes:
    try:
        return file_bytes(path)
    except (OSError, ValueError) as error:  # the second: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read as an image ({reason})") from error
