//! The parts of the video VAE, `[B, C, T, H, W]`.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor, no_grad};

use crate::nn::fan_in_uniform;

/// `LTXVideoCausalConv3d`: 3×3×3, zeros around each frame, the first frame (and, unless causal, the last) repeated.
#[derive(Debug)]
pub(super) struct CausalConv3d {
    weight: Tensor,
    bias: Tensor,
    causal: bool,
}

impl CausalConv3d {
    pub(super) fn new(path: &Path, inputs: i64, outputs: i64, causal: bool) -> Self {
        let conv = path / "conv";
        Self {
            weight: conv.var("weight", &[outputs, inputs, 3, 3, 3], fan_in_uniform(27 * inputs)),
            bias: conv.var("bias", &[outputs], Init::Const(0.0)),
            causal,
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let frames = x.size()[2];
        let first = x.narrow(2, 0, 1);
        let padded = if self.causal {
            Tensor::cat(&[&first, &first, x], 2)
        } else {
            Tensor::cat(&[&first, x, &x.narrow(2, frames - 1, 1)], 2)
        };
        padded.conv3d(&self.weight, Some(&self.bias), [1, 1, 1], [0, 1, 1], [1, 1, 1], 1)
    }

    /// Makes the last output channel this constant.
    pub(super) fn fix_last(&self, value: f64) {
        let last = self.bias.size()[0] - 1;
        no_grad(|| {
            let _ = self.weight.get(last).zero_();
            let _ = self.bias.get(last).fill_(value);
        });
    }
}

/// `LTXVideoResnetBlock3d` of one width, without timestep and noise.
#[derive(Debug)]
pub(super) struct ResnetBlock3d {
    conv1: CausalConv3d,
    conv2: CausalConv3d,
}

impl ResnetBlock3d {
    pub(super) fn new(path: &Path, width: i64, causal: bool) -> Self {
        Self {
            conv1: CausalConv3d::new(&(path / "conv1"), width, width, causal),
            conv2: CausalConv3d::new(&(path / "conv2"), width, width, causal),
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.conv1.forward(&rms_norm(x).silu());
        self.conv2.forward(&rms_norm(&h).silu()) + x
    }
}

/// `LTXVideoDownsampler3d`: a convolution, then two frames of 2×2 become channels; beside it their mean.
#[derive(Debug)]
pub(super) struct Downsampler {
    conv: CausalConv3d,
    group: i64,
}

impl Downsampler {
    pub(super) fn new(path: &Path, inputs: i64, outputs: i64, causal: bool) -> Self {
        Self { conv: CausalConv3d::new(&(path / "conv"), inputs, outputs / 8, causal), group: inputs * 8 / outputs }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let x = Tensor::cat(&[&x.narrow(2, 0, 1), x], 2);
        let residual = fold(&x);
        let size = residual.size();
        let grouped = residual.view([size[0], size[1] / self.group, self.group, size[2], size[3], size[4]]);
        fold(&self.conv.forward(&x)) + grouped.mean_dim([2i64].as_slice(), false, x.kind())
    }
}

/// `LTXVideoUpsampler3d`: a convolution whose channels become two frames of 2×2; beside it the input unfolded likewise.
/// The first frame, which stands for one, is dropped.
#[derive(Debug)]
pub(super) struct Upsampler {
    conv: CausalConv3d,
}

impl Upsampler {
    pub(super) fn new(path: &Path, width: i64, causal: bool) -> Self {
        Self { conv: CausalConv3d::new(&(path / "conv"), width, width * 4, causal) }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let residual = unfold(x).repeat([1, 4, 1, 1, 1]);
        unfold(&self.conv.forward(x)) + residual
    }

    /// Single pictures come from the second of the two frames alone: makes the first its equal.
    pub(super) fn inflate(&self) {
        let size = self.conv.weight.size();
        let (outputs, width) = (size[0], size[1]);
        no_grad(|| {
            let weight = self.conv.weight.view([outputs / 8, 2, 4, width, 3, 3, 3].as_slice());
            let bias = self.conv.bias.view([outputs / 8, 2, 4]);
            weight.select(1, 0).copy_(&weight.select(1, 1));
            bias.select(1, 0).copy_(&bias.select(1, 1));
            // What runs beside the convolution differs between the two: the middle of the kernel makes up for it.
            let identity = Tensor::eye(width, (Kind::Float, weight.device())).to_kind(weight.kind());
            let beside = identity.view([width / 8, 2, 4, width]).repeat([4, 1, 1, 1]);
            let mut middle = weight.select(1, 0).select(-1, 1).select(-1, 1).select(-1, 1);
            middle += beside.select(1, 1) - beside.select(1, 0);
        });
    }
}

/// `[B, C, 2T, 2H, 2W]` → `[B, 8C, T, H, W]`.
fn fold(x: &Tensor) -> Tensor {
    let size = x.size();
    let (b, c, t, h, w) = (size[0], size[1], size[2] / 2, size[3] / 2, size[4] / 2);
    x.reshape([b, c, t, 2, h, 2, w, 2]).permute([0, 1, 3, 5, 7, 2, 4, 6]).reshape([b, c * 8, t, h, w])
}

/// `[B, 8C, T, H, W]` → `[B, C, 2T − 1, 2H, 2W]`.
fn unfold(x: &Tensor) -> Tensor {
    let size = x.size();
    let (b, c, t, h, w) = (size[0], size[1] / 8, size[2], size[3], size[4]);
    let unfolded =
        x.reshape([b, c, 2, 2, 2, t, h, w]).permute([0, 1, 5, 2, 6, 3, 7, 4]).reshape([b, c, 2 * t, 2 * h, 2 * w]);
    unfolded.narrow(2, 1, 2 * t - 1)
}

/// x / √(mean(x²) + eps) over the channels, without a weight.
pub(super) fn rms_norm(x: &Tensor) -> Tensor {
    let norm = x.norm_scalaropt_dim_dtype(2.0, [1i64].as_slice(), true, Kind::Float);
    let inverse = (norm.square() / x.size()[1] as f64 + 1e-8).rsqrt().to_kind(x.kind());
    x * inverse
}
