"""Convolutions that pad as PyTorch's networks do or as TensorFlow's, and the networks made of them.

At stride 2 TensorFlow's ``same`` puts an odd pixel of padding after the image, PyTorch's recipe (half the kernel on
each side) one before it too: the same weights see the image shifted, and give other outputs. Batch norms differ as
well: networks trained in TensorFlow add 1e-3 to the variance.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.errors import ModelError

SYMMETRIC, SAME, AUTO = "symmetric", "same", "auto"
TF_EPS = 1e-3  # of TensorFlow's batch norms


class Conv2d(nn.Conv2d):
    """A convolution with half the kernel as padding or, where ``same`` is set, with TensorFlow's."""

    same = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return super().forward(x)
        height, width = (_missing(x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]) for axis in (0, 1))
        padding = (height // 2, width // 2)
        if height % 2 or width % 2:
            x = functional.pad(x, (padding[1], width - padding[1], padding[0], height - padding[0]))
            padding = (0, 0)
        return functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _missing(size: int, kernel: int, stride: int) -> int:
    """Pixels to add along an axis for ``ceil(size / stride)`` outputs."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class PaddedNetwork(nn.Module):
    """A network that runs weights of PyTorch's and of TensorFlow's kind.

    Attributes:
        asked: the padding the user asked for; with ``auto``, weights that are loaded may change the padding.
        usual: how the network's weights pad whatever the file; None where both kinds are about.
    """

    asked: str
    usual: str | None

    def ask_padding(self, asked: str, usual: str | None = None) -> None:
        """Take the user's word, or the usual where that is ``auto``. To be called once all layers are made.

        Raises:
            ModelError: there is no such padding.
        """
        choices = (AUTO, SYMMETRIC, SAME)
        if asked not in choices:
            raise ModelError("there is no such padding", got=asked, expected=", ".join(choices))
        self.asked, self.usual = asked, usual
        self._own_eps = next(module.eps for module in self.modules() if isinstance(module, nn.BatchNorm2d))
        self.set_padding(usual or SYMMETRIC if asked == AUTO else asked)

    def set_padding(self, padding: str, eps: float | None = None) -> None:
        """Pad in this way, with batch norms of ``eps``: by default TensorFlow's for ``same``, else the network's."""
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.same = padding == SAME
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = eps or (TF_EPS if padding == SAME else self._own_eps)
