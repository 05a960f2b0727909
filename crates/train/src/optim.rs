//! AdamW on one flat buffer, its learning-rate schedule, and the moving average of the weights.
//!
//! libtorch's optimizer hides its state from Rust, and a training that runs for hours must resume exactly. So all
//! parameters of a model are views of one flat tensor: the optimizer is a handful of operations on whole buffers, and
//! its state is three tensors and a step count.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// The rate at each step: linear warm-up, then half a cosine down to `floor` times the peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Peak learning rate.
    pub peak: f64,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Step at which the rate reaches its floor.
    pub total: u64,
    /// Fraction of the peak kept at the end.
    pub floor: f64,
}

impl Schedule {
    /// Learning rate of the given step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1) as f64;
        let t = ((step - self.warmup) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * t).cos());
        self.peak * (self.floor + (1.0 - self.floor) * cosine)
    }
}

/// The settings of [`Optimizer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, on matrices only (not on norms, biases and embeddings of rank 1).
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; larger ones are scaled down to it.
    pub clip: f64,
    /// Decay of the moving average of the weights.
    pub ema: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, clip: 1.0, ema: 0.999 }
    }
}

/// Where a parameter lies in the flat buffers.
#[derive(Clone, Debug)]
struct Slot {
    name: String,
    shape: Vec<i64>,
    start: i64,
    len: i64,
}

/// The parameters of a model with the state of AdamW and the moving average.
#[derive(Debug)]
pub struct Optimizer {
    config: AdamW,
    slots: Vec<Slot>,
    params: Vec<Tensor>,
    /// What the model computes with: the same buffer as `master`, or its bf16 copy.
    working: Tensor,
    master: Tensor,
    mean: Tensor,
    square: Tensor,
    average: Tensor,
    decay: Tensor,
    step: u64,
}

impl Optimizer {
    /// Moves the trainable variables of `vs` into one buffer of the given kind (`Float` or `BFloat16`).
    ///
    /// # Errors
    /// When the store has no trainable variable.
    pub fn new(vs: &VarStore, config: AdamW, kind: Kind) -> Result<Self> {
        let named: BTreeMap<String, Tensor> = vs.variables().into_iter().filter(|(_, t)| t.requires_grad()).collect();
        ensure!(!named.is_empty(), "the model has no trainable parameter");
        let mut slots = Vec::new();
        let mut start = 0;
        for (name, tensor) in &named {
            let len = tensor.numel() as i64;
            slots.push(Slot { name: name.clone(), shape: tensor.size(), start, len });
            start += len;
        }
        let mut params: Vec<Tensor> = named.into_values().collect();
        tch::no_grad(|| {
            let parts: Vec<Tensor> = params.iter().map(|p| p.detach().to_kind(Kind::Float).reshape([-1])).collect();
            let master = Tensor::cat(&parts, 0);
            let decay: Vec<Tensor> = slots
                .iter()
                .map(|s| {
                    let on = if s.shape.len() > 1 { 1.0 } else { 0.0 };
                    Tensor::full([s.len], on, (Kind::Float, vs.device()))
                })
                .collect();
            let decay = Tensor::cat(&decay, 0);
            let working = if kind == Kind::Float { master.shallow_clone() } else { master.to_kind(kind) };
            for (param, slot) in params.iter_mut().zip(&slots) {
                param.set_data(&working.narrow(0, slot.start, slot.len).view(&slot.shape[..]));
            }
            Ok(Self {
                config,
                slots,
                params,
                working,
                mean: master.zeros_like(),
                square: master.zeros_like(),
                average: master.copy(),
                master,
                decay,
                step: 0,
            })
        })
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.master.numel()
    }

    /// Whether there is no parameter at all (never, after [`Optimizer::new`]).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Updates made so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Backpropagates `loss` and makes one update at the given rate; returns the norm of the gradient before clipping.
    pub fn step(&mut self, loss: &Tensor, rate: f64) -> f64 {
        for param in &mut self.params {
            param.zero_grad();
        }
        loss.backward();
        self.update(rate)
    }

    /// One update from gradients that are already there.
    fn update(&mut self, rate: f64) -> f64 {
        tch::no_grad(|| {
            let grads: Vec<Tensor> = self
                .params
                .iter()
                .zip(&self.slots)
                .map(|(p, slot)| {
                    let grad = p.grad();
                    if grad.defined() { grad.reshape([-1]) } else { Tensor::zeros([slot.len], (p.kind(), p.device())) }
                })
                .collect();
            let mut grad = Tensor::cat(&grads, 0).to_kind(Kind::Float);
            let norm = grad.norm().double_value(&[]);
            if norm > self.config.clip {
                let _ = grad.g_mul_scalar_(self.config.clip / norm);
            }
            self.step += 1;
            let c = self.config;
            let t = self.step as i32;
            let _ = self.mean.lerp_(&grad, 1.0 - c.beta1);
            let _ = self.square.g_mul_scalar_(c.beta2);
            let _ = self.square.addcmul_(&(&grad * (1.0 - c.beta2)), &grad);
            if c.weight_decay > 0.0 {
                let decay = &self.decay * (-rate * c.weight_decay);
                let _ = self.master.addcmul_(&self.master.copy(), &decay);
            }
            let scale = rate / (1.0 - c.beta1.powi(t));
            let mut denominator = &self.square / (1.0 - c.beta2.powi(t));
            let _ = denominator.sqrt_();
            let _ = denominator.g_add_scalar_(c.eps);
            let _ = self.master.addcdiv_(&(&self.mean * -scale), &denominator);
            // A short average at first, so that the start is forgotten.
            let ema = c.ema.min((1.0 + self.step as f64) / (10.0 + self.step as f64));
            let _ = self.average.lerp_(&self.master, 1.0 - ema);
            if self.working.kind() != Kind::Float {
                self.working.copy_(&self.master);
            }
            norm
        })
    }

    /// Runs `f` with the moving average in place of the weights, then puts the weights back.
    pub fn with_average<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let weights = tch::no_grad(|| {
            let weights = self.master.copy();
            self.working.copy_(&self.average);
            weights
        });
        let out = f();
        tch::no_grad(|| {
            self.master.copy_(&weights);
            self.working.copy_(&weights);
        });
        out
    }

    /// Lets `f` change the weights in place, all of them; the moving average starts anew.
    pub fn edit(&mut self, f: impl FnOnce()) {
        f();
        tch::no_grad(|| self.master.copy_(&self.working));
        self.reset_average();
    }

    /// Sets the moving average to the present weights.
    pub fn reset_average(&mut self) {
        tch::no_grad(|| self.average.copy_(&self.master));
    }

    /// The averaged parameters by name, f32, each in memory of its own.
    pub fn averaged(&self) -> Vec<(String, Tensor)> {
        self.named(&self.average)
    }

    /// The parameters themselves by name, f32, each in memory of its own.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        self.named(&self.master)
    }

    fn named(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .map(|s| {
                let part = flat.narrow(0, s.start, s.len).view(&s.shape[..]).copy();
                (s.name.clone(), part)
            })
            .collect()
    }

    /// The state that a checkpoint needs, under names below `prefix`.
    pub fn state(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let step = Tensor::from_slice(&[self.step as i64]);
        let tensors = [
            ("master", self.master.copy()),
            ("mean", self.mean.copy()),
            ("square", self.square.copy()),
            ("average", self.average.copy()),
            ("step", step),
        ];
        tensors.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t)).collect()
    }

    /// Restores what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// When a tensor is missing or of another size: the checkpoint is of another model.
    pub fn restore(&mut self, prefix: &str, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str, len: usize| -> Result<&Tensor> {
            let key = format!("{prefix}.{name}");
            let found = state.get(&key).context("checkpoint lacks a tensor");
            let tensor = found.with_context(|| key.clone())?;
            ensure!(
                tensor.numel() == len,
                "{key}: the checkpoint has {} values, the model {len}: were other sizes given?",
                tensor.numel()
            );
            Ok(tensor)
        };
        let len = self.len();
        tch::no_grad(|| -> Result<()> {
            self.master.copy_(get("master", len)?);
            self.mean.copy_(get("mean", len)?);
            self.square.copy_(get("square", len)?);
            self.average.copy_(get("average", len)?);
            self.working.copy_(&self.master);
            Ok(())
        })?;
        self.step = get("step", 1)?.int64_value(&[0]) as u64;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::Init;

    /// Asserts that two lists of named tensors are equal bit for bit.
    pub(crate) fn same(a: &[(String, Tensor)], b: &[(String, Tensor)]) {
        assert_eq!(a.len(), b.len());
        for ((name, x), (other, y)) in a.iter().zip(b) {
            assert_eq!(name, other);
            assert_eq!(x, y, "{name}");
        }
    }

    fn model(kind: Kind, config: AdamW) -> (VarStore, Tensor, Optimizer) {
        let vs = VarStore::new(Device::Cpu);
        let weight = vs.root().var("weight", &[2, 3], Init::Const(0.5));
        let _ = vs.root().var("scale", &[3], Init::Const(1.0));
        let optimizer = Optimizer::new(&vs, config, kind).expect("parameters");
        (vs, weight, optimizer)
    }

    fn loss(vs: &VarStore, x: &Tensor) -> Tensor {
        let variables = vs.variables();
        let y = x.linear::<&Tensor>(&(&variables["weight"] * &variables["scale"]), None);
        y.square().sum(Kind::Float)
    }

    #[test]
    fn the_rate_rises_then_falls_to_its_floor() {
        let _generator = crate::generator();
        let schedule = Schedule { peak: 2.0, warmup: 10, total: 110, floor: 0.1 };
        assert!((schedule.rate(0) - 0.2).abs() < 1e-12);
        assert!((schedule.rate(9) - 2.0).abs() < 1e-12);
        assert!((schedule.rate(10) - 2.0).abs() < 1e-12);
        assert!((schedule.rate(60) - 1.1).abs() < 1e-9);
        assert!((schedule.rate(110) - 0.2).abs() < 1e-9);
        assert!((schedule.rate(9999) - 0.2).abs() < 1e-9);
        assert!((10..109).all(|s| schedule.rate(s + 1) < schedule.rate(s)));
    }

    #[test]
    fn one_step_is_that_of_adamw() {
        let _generator = crate::generator();
        let config = AdamW { weight_decay: 0.1, clip: 1e9, ..AdamW::default() };
        let (vs, weight, mut optimizer) = model(Kind::Float, config);
        let x = Tensor::from_slice(&[1.0f32, 2.0, 0.0]).view([1, 3]);
        let norm = optimizer.step(&loss(&vs, &x), 0.01);
        assert!(norm > 0.0);
        // The first step of Adam moves each weight by the rate against its gradient's sign; decay comes before.
        let moved = 0.5 - 0.01 * 0.1 * 0.5 - 0.01;
        assert!((weight.double_value(&[0, 0]) - moved).abs() < 1e-6);
        let untouched = 0.5 - 0.01 * 0.1 * 0.5;
        assert!((weight.double_value(&[0, 2]) - untouched).abs() < 1e-6, "no gradient, decay alone");
        let scale = &vs.variables()["scale"];
        assert!((scale.double_value(&[0]) - 0.99).abs() < 1e-6, "vectors do not decay");
    }

    #[test]
    fn large_gradients_are_clipped() {
        let _generator = crate::generator();
        let config = AdamW { clip: 0.001, eps: 1.0, weight_decay: 0.0, ..AdamW::default() };
        let (vs, weight, mut optimizer) = model(Kind::Float, config);
        let x = Tensor::from_slice(&[100.0f32, 0.0, 0.0]).view([1, 3]);
        assert!(optimizer.step(&loss(&vs, &x), 1.0) > 1.0);
        // With eps 1 the step is about the clipped gradient itself.
        assert!((0.5 - weight.double_value(&[0, 0])).abs() < 0.002);
    }

    #[test]
    fn the_average_follows_and_the_weights_come_back() {
        let _generator = crate::generator();
        let (vs, weight, mut optimizer) = model(Kind::BFloat16, AdamW::default());
        let x = Tensor::ones([1, 3], (Kind::BFloat16, Device::Cpu));
        for _ in 0..20 {
            optimizer.step(&loss(&vs, &x), 0.01);
        }
        let now = weight.double_value(&[0, 0]);
        let averaged = optimizer.with_average(|| weight.double_value(&[0, 0]));
        assert!(averaged > now && averaged < 0.5, "{now} < {averaged} < 0.5");
        assert_eq!(weight.double_value(&[0, 0]), now);
        optimizer.reset_average();
        assert_eq!(optimizer.with_average(|| weight.double_value(&[0, 0])), now);
    }

    #[test]
    fn a_checkpoint_of_another_model_is_refused() {
        let _generator = crate::generator();
        let (_, _, mut optimizer) = model(Kind::Float, AdamW::default());
        let mut state: BTreeMap<String, Tensor> = optimizer.state("m").into_iter().collect();
        assert!(optimizer.restore("m", &state).is_ok());
        assert!(optimizer.restore("other", &state).is_err());
        state.insert("m.mean".into(), Tensor::zeros([4], (Kind::Float, Device::Cpu)));
        let error = optimizer.restore("m", &state).expect_err("another size");
        assert!(format!("{error:#}").contains("m.mean"), "{error:#}");
    }
}
