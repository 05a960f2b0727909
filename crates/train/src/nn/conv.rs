//! Convolutions and the blocks of the VQ model, `[N, C, H, W]` in channels-last memory.

use tch::Tensor;
use tch::nn::{Init, Path};

use super::{GroupNorm, fan_in_uniform};

/// `torch.nn.Conv2d`, square kernel.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv2d {
    /// A convolution with bias and stride 1 that keeps the size (for odd kernels).
    pub fn new(path: &Path, inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self::build(path, inputs, outputs, kernel, 1, kernel / 2, 1, true)
    }

    /// A convolution with every choice given.
    #[allow(clippy::too_many_arguments)] // the same list as torch.nn.Conv2d
    pub fn build(
        path: &Path,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        stride: i64,
        padding: i64,
        groups: i64,
        bias: bool,
    ) -> Self {
        let fan_in = inputs / groups * kernel * kernel;
        let shape = [outputs, inputs / groups, kernel, kernel];
        Self {
            weight: path.var("weight", &shape, fan_in_uniform(fan_in)),
            bias: bias.then(|| path.var("bias", &[outputs], Init::Const(0.0))),
            stride,
            padding,
            groups,
        }
    }

    /// `[N, C_in, H, W]` → `[N, C_out, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(
            &self.weight,
            self.bias.as_ref(),
            [self.stride, self.stride],
            [self.padding, self.padding],
            [1, 1],
            self.groups,
        )
    }

    /// Sets the weight to a constant that is not trained.
    pub fn fix_weight(&mut self, weight: &Tensor) {
        let _ = self.weight.set_requires_grad(false);
        self.weight.set_data(weight);
    }

    /// A 1×1 convolution as a product: `[…, C_in]` → `[…, C_out]`.
    pub fn pointwise(&self, x: &Tensor) -> Tensor {
        let weight = self.weight.flatten(1, 3);
        x.linear(&weight, self.bias.as_ref())
    }
}

/// `diffusers` `ResnetBlock2D` without a time embedding.
#[derive(Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// Two 3×3 convolutions; a 1×1 `conv_shortcut` where the widths differ.
    pub fn new(path: &Path, inputs: i64, outputs: i64, groups: i64) -> Self {
        Self {
            norm1: GroupNorm::new(&(path / "norm1"), groups, inputs, 1e-6),
            conv1: Conv2d::new(&(path / "conv1"), inputs, outputs, 3),
            norm2: GroupNorm::new(&(path / "norm2"), groups, outputs, 1e-6),
            conv2: Conv2d::new(&(path / "conv2"), outputs, outputs, 3),
            conv_shortcut: (inputs != outputs).then(|| Conv2d::new(&(path / "conv_shortcut"), inputs, outputs, 1)),
        }
    }

    /// `[N, inputs, H, W]` → `[N, outputs, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.conv1.forward(&self.norm1.forward(x).silu());
        let h = self.conv2.forward(&self.norm2.forward(&h).silu());
        match &self.conv_shortcut {
            Some(conv) => conv.forward(x) + h,
            None => x + h,
        }
    }
}

/// Halves height and width: one row and column of zeros after the last, then a 3×3 convolution of stride 2.
#[derive(Debug)]
pub struct Downsample2D {
    conv: Conv2d,
}

impl Downsample2D {
    /// Adds `conv` below `path`.
    pub fn new(path: &Path, channels: i64) -> Self {
        Self { conv: Conv2d::build(&(path / "conv"), channels, channels, 3, 2, 0, 1, true) }
    }

    /// `[N, C, H, W]` → `[N, C, H/2, W/2]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.conv.forward(&x.constant_pad_nd([0, 1, 0, 1]))
    }
}

/// Doubles height and width by repetition, then a 3×3 convolution.
#[derive(Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// Adds `conv` below `path`.
    pub fn new(path: &Path, channels: i64) -> Self {
        Self { conv: Conv2d::new(&(path / "conv"), channels, channels, 3) }
    }

    /// `[N, C, H, W]` → `[N, C, 2H, 2W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (_, _, h, w) = x.size4().unwrap_or((0, 0, 0, 0));
        let up = x.upsample_nearest2d([2 * h, 2 * w], None, None);
        self.conv.forward(&up)
    }
}
