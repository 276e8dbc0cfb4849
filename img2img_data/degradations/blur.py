"""Degradations that blur. A kernel is stated by its formula in ``kernels``; here it meets the image."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from pydantic import Field, model_validator

from img2img_data.degradations.base import Axes, Degradation, Image, to_dtype
from img2img_data.degradations.kernels import (
    Kernel,
    bell_kernel,
    bell_size,
    disk_kernel,
    gaussian_kernel,
    motion_kernel,
    plateau_kernel,
    sinc_kernel,
)
from img2img_data.degradations.parameters import OddInt, Uniform, parameter

_IDENTITY: Final = np.ones(1, np.float32)


def blur_separably(image: Image, sigma: float, axes: Axes) -> Image:
    """Blur with a Gaussian of ``sigma`` pixels, cut at 4 sigma, mirrored at the border (d c b a | a b c d).

    The kernel is the one of ``scipy.ndimage.gaussian_filter(sigma, mode="reflect", truncate=4)``.
    """
    kernel = gaussian_kernel(sigma)
    along_x, along_y = kernel if "x" in axes else _IDENTITY, kernel if "y" in axes else _IDENTITY
    blurred = cv2.sepFilter2D(image, -1, along_x, along_y, borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(image.shape)


class GaussianBlur(Degradation):
    """Gaussian blur of one fixed strength, or a strength drawn for each image."""

    sigma: Uniform = parameter(
        3.0, gt=0, le=100, description="standard deviation of the blur, pixels of the output"
    )

    @property
    def separable(self) -> bool:
        """A Gaussian is."""
        return True

    @classmethod
    def identity(cls) -> Degradation:
        """So narrow that the kernel is one pixel."""
        return cls(sigma=Uniform(0.1))

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return blur_separably(image, drawn["sigma"], axes)


class RandomGaussianBlur(Degradation):
    """Gaussian blur, another strength for each image."""

    sigma_min: float = Field(
        1.0, gt=0, le=100, description="weakest blur, standard deviation in pixels"
    )
    sigma_max: float = Field(
        5.0, gt=0, le=100, description="strongest blur, standard deviation in pixels"
    )

    @model_validator(mode="after")
    def _ordered(self) -> RandomGaussianBlur:
        if self.sigma_min > self.sigma_max:
            raise ValueError("sigma_min is above sigma_max")
        return self

    @property
    def random(self) -> bool:
        """Always, but for equal ends."""
        return self.sigma_min < self.sigma_max

    @property
    def separable(self) -> bool:
        """A Gaussian is."""
        return True

    @classmethod
    def identity(cls) -> Degradation:
        """So narrow that the kernel is one pixel."""
        return cls(sigma_min=0.1, sigma_max=0.1)

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw sigma uniformly between the two ends."""
        return {"sigma": Uniform(self.sigma_min, self.sigma_max).draw(rng)}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return blur_separably(image, drawn["sigma"], axes)


class KernelBlur(Degradation):
    """Blur with a kernel that does not fall apart into rows and columns, mirrored at the border."""

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the odd, point-symmetric kernel, sum 1."""
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Filter with ``kernel(**drawn)``; integers are summed in float32 and rounded once."""
        filtered = cv2.filter2D(image, -1, self.kernel(**drawn), borderType=cv2.BORDER_REFLECT)
        return (
            filtered.reshape(image.shape) if image.dtype.kind != "f" else to_dtype(filtered, image)
        )


_SIGMA_X: Final = "standard deviation along the x axis before it is turned, pixels"
_ROTATION: Final = "turn of the x axis, degrees counter-clockwise"
_ODD_SIZE: Final = "width and height of the kernel, an odd number of pixels"


class Anisotropic(KernelBlur):
    """Gaussian blur of another strength along two turned axes."""

    sigma_x: Uniform = parameter([0.5, 4], gt=0, le=50, description=_SIGMA_X)
    sigma_y: Uniform = parameter(
        [0.5, 4], gt=0, le=50, description="standard deviation across it, pixels"
    )
    rotation: Uniform = parameter([-180, 180], ge=-360, le=360, description=_ROTATION)
    size: OddInt | None = parameter(
        None, ge=1, le=401, description=_ODD_SIZE + "  [default: 4 sigma to each side]"
    )

    @classmethod
    def identity(cls) -> Degradation:
        """A kernel of one pixel."""
        return cls(size=OddInt(1))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the kernel (``kernels.bell_kernel`` with beta 1)."""
        x, y = drawn["sigma_x"], drawn["sigma_y"]
        size = int(drawn.get("size", 0)) or bell_size(max(x, y), 1)
        return bell_kernel(size, x, y, drawn["rotation"], 1.0)


class Generalized(KernelBlur):
    """Generalised Gaussian blur: sharper peak and heavier tails (beta < 1), or flatter (beta > 1)."""

    sigma_x: Uniform = parameter([0.5, 3], gt=0, le=25, description=_SIGMA_X)
    sigma_y: Uniform | None = parameter(
        None,
        gt=0,
        le=25,
        description="the same across it, pixels  [default: as sigma_x, a round kernel]",
    )
    rotation: Uniform = parameter(0.0, ge=-360, le=360, description=_ROTATION)
    beta: Uniform = parameter([0.5, 4], ge=0.3, le=20, description="shape; 1 is the Gaussian")
    size: OddInt | None = parameter(
        None,
        ge=1,
        le=401,
        description=_ODD_SIZE + "  [default: as far as exp(-8) of the peak, up to 401]",
    )

    @classmethod
    def identity(cls) -> Degradation:
        """A kernel of one pixel."""
        return cls(size=OddInt(1))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the kernel (``kernels.bell_kernel``)."""
        x, beta = drawn["sigma_x"], drawn["beta"]
        y = drawn.get("sigma_y", x)
        size = int(drawn.get("size", 0)) or min(401, bell_size(max(x, y), beta))
        return bell_kernel(size, x, y, drawn["rotation"], beta)


class Plateau(KernelBlur):
    """Blur with a plateau-shaped kernel, 1 / (1 + d^(2 beta))."""

    sigma_x: Uniform = parameter([0.5, 3], gt=0, le=50, description=_SIGMA_X)
    sigma_y: Uniform | None = parameter(
        None,
        gt=0,
        le=50,
        description="the same across it, pixels  [default: as sigma_x, a round kernel]",
    )
    rotation: Uniform = parameter(0.0, ge=-360, le=360, description=_ROTATION)
    beta: Uniform = parameter([1, 2], ge=0.5, le=20, description="shape; the larger the flatter")
    size: OddInt = parameter(21, ge=1, le=401, description=_ODD_SIZE)

    @classmethod
    def identity(cls) -> Degradation:
        """A kernel of one pixel."""
        return cls(size=OddInt(1))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the kernel (``kernels.plateau_kernel``)."""
        x = drawn["sigma_x"]
        y = drawn.get("sigma_y", x)
        return plateau_kernel(int(drawn["size"]), x, y, drawn["rotation"], drawn["beta"])


class Motion(KernelBlur):
    """Motion blur along a straight line, centred: the image does not move."""

    length: Uniform = parameter(
        [3, 15], ge=1, le=200, description="length of the line, pixels; 1 is no blur"
    )
    angle: Uniform = parameter(
        [-90, 90],
        ge=-360,
        le=360,
        description="direction, degrees counter-clockwise; 0 is horizontal",
    )

    @classmethod
    def identity(cls) -> Degradation:
        """A line of one pixel."""
        return cls(length=Uniform(1.0))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the line (``kernels.motion_kernel``)."""
        return motion_kernel(drawn["length"], drawn["angle"])


class Defocus(KernelBlur):
    """Blur of a lens out of focus: a disk with a smooth rim."""

    radius: Uniform = parameter(
        [1, 5], ge=0, le=100, description="radius of the disk, pixels; 0.5 and less is no blur"
    )

    @classmethod
    def identity(cls) -> Degradation:
        """A disk of one pixel."""
        return cls(radius=Uniform(0.0))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the disk (``kernels.disk_kernel``)."""
        return disk_kernel(drawn["radius"])


class Sinc(KernelBlur):
    """Ideal low-pass cut short: ringing and overshoot, as of over-sharpened or badly resized images."""

    cutoff: Uniform = parameter(
        [1.05, 3.14],
        gt=0,
        le=3.15,
        description="highest frequency that passes, radians a pixel; 3.14 is all",
    )
    size: OddInt = parameter([7, 21], ge=1, le=101, description=_ODD_SIZE)

    @classmethod
    def identity(cls) -> Degradation:
        """A kernel of one pixel."""
        return cls(size=OddInt(1))

    def kernel(self, **drawn: Any) -> Kernel:
        """Return the kernel (``kernels.sinc_kernel``)."""
        return sinc_kernel(int(drawn["size"]), drawn["cutoff"])


class Median(Degradation):
    """Median of a square: dust and fine detail go, edges stay. The border pixels repeat."""

    size: OddInt = parameter(
        5, ge=1, le=31, description="side of the square, an odd number of pixels; 1 is none"
    )

    @classmethod
    def identity(cls) -> Degradation:
        """A square of one pixel."""
        return cls(size=OddInt(1))

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Take the median of ``drawn["size"]`` squared pixels, each channel alone; nothing is rounded."""
        size = int(drawn["size"])
        if size == 1:
            return image.copy()
        # OpenCV has large squares for bytes alone, and takes 1, 3 or 4 channels.
        if (image.dtype == np.uint8 or size <= 5) and (
            image.ndim == 2 or image.shape[2] in {1, 3, 4}
        ):
            return cv2.medianBlur(image, size).reshape(image.shape)
        from scipy.ndimage import median_filter

        square = (size, size) if image.ndim == 2 else (size, size, 1)
        return np.asarray(median_filter(image, square, mode="nearest"))


SIMPLE_BLURS: Final[dict[str, type[Degradation]]] = {
    "gaussian": GaussianBlur,
    "random-gaussian": RandomGaussianBlur,
}

BLURS: Final[dict[str, type[Degradation]]] = {
    **SIMPLE_BLURS,
    "anisotropic": Anisotropic,
    "generalized": Generalized,
    "plateau": Plateau,
    "motion": Motion,
    "defocus": Defocus,
    "sinc": Sinc,
    "median": Median,
}
