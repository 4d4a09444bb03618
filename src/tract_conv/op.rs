//! The fused convolution as an operator of tract.

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;

use super::kernel::{Conv, Depthwise};

#[derive(Debug)]
pub(super) enum Kernel {
    Dense(Conv),
    Depthwise(Depthwise),
}

/// A convolution, its activation, and (with a second input) a residual that is added.
#[derive(Debug, Clone)]
pub(super) struct FusedConv {
    /// Shared, because tract copies operators while it optimises the graph.
    pub(super) kernel: Arc<Kernel>,
    /// Of the output: batch, channels, height, width.
    pub(super) shape: [usize; 4],
}

impl PartialEq for FusedConv {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kernel, &other.kernel) && self.shape == other.shape
    }
}

impl Eq for FusedConv {}

impl FusedConv {
    fn run(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) -> bool {
        let batch = self.shape[0].max(1);
        let (each, pixels) = (input.len() / batch, output.len() / batch);
        output.chunks_exact_mut(pixels.max(1)).enumerate().all(|(n, output)| {
            let input = input.get(n * each..(n + 1) * each).unwrap_or_default();
            let residual = residual.map(|values| values.get(n * pixels..(n + 1) * pixels).unwrap_or_default());
            match &*self.kernel {
                Kernel::Dense(conv) => conv.run(input, residual, output),
                Kernel::Depthwise(conv) => residual.is_none() && conv.run(input, output),
            }
        })
    }
}

impl Op for FusedConv {
    fn name(&self) -> StaticName {
        match *self.kernel {
            Kernel::Dense(_) => "FusedConv".into(),
            Kernel::Depthwise(_) => "FusedDepthwiseConv".into(),
        }
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for FusedConv {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut views = inputs.iter().map(|input| input.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()));
        let input = views.next().context("a convolution has no input")??;
        let residual = views.next().transpose()?;
        let mut output = Tensor::zero::<f32>(&self.shape)?;
        let mut view = output.to_plain_array_view_mut::<f32>()?;
        let values = view.as_slice_mut().context("a new tensor is not contiguous")?;
        ensure!(self.run(input, residual, values), "a convolution got {} values", input.len());
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for FusedConv {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.shape)))
    }

    as_op!();
}
