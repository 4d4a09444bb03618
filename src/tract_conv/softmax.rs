//! A softmax over an axis that is not the last one, as detectors have it over the bins of a box's sides.
//!
//! tract walks such an axis value by value through strides, which takes a quarter of the time of a YOLOv8. Here whole rows
//! are processed side by side, some columns at a time, so that they stay in the cache.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::TypedModelPatch;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};

/// Columns that are processed together.
const BLOCK: usize = 256;
/// With fewer values than this behind the axis, tract's own operator is used.
const MIN_INNER: usize = 16;

/// A softmax over the middle one of three axes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ColumnSoftmax {
    /// Length of the axis.
    axis: usize,
    /// Values behind the axis.
    inner: usize,
}

/// Replaces the softmax at a node, if its axis is not the last one.
pub(super) fn softmax(model: &TypedModel, id: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(id);
    let (Some(op), &[input]) = (node.op_as::<Softmax>(), node.inputs.as_slice()) else { return Ok(None) };
    let &[axis] = op.axes.as_slice() else { return Ok(None) };
    let fact = model.outlet_fact(input)?;
    let plain = op.kind == SoftmaxKind::Softmax && op.quant_output_dt.is_none();
    let Some(shape) = fact.shape.as_concrete().filter(|_| plain && fact.datum_type == f32::datum_type()) else {
        return Ok(None);
    };
    let (Some(&len), inner) = (shape.get(axis), shape.iter().skip(axis + 1).product()) else { return Ok(None) };
    if len == 0 || inner < MIN_INNER {
        return Ok(None);
    }
    let op = ColumnSoftmax { axis: len, inner };
    TypedModelPatch::replace_single_op(model, node, &[input], op).map(Some)
}

impl ColumnSoftmax {
    fn run(&self, input: &[f32], output: &mut [f32]) {
        let (each, inner) = (self.axis * self.inner, self.inner);
        let (mut most, mut sums) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
        for (input, output) in input.chunks_exact(each).zip(output.chunks_exact_mut(each)) {
            for start in (0..inner).step_by(BLOCK) {
                let columns = start..inner.min(start + BLOCK);
                let width = columns.len();
                let (most, sums) = (&mut most[..width], &mut sums[..width]);
                most.fill(f32::NEG_INFINITY);
                sums.fill(0.0);
                for row in input.chunks_exact(inner) {
                    most.iter_mut().zip(&row[columns.clone()]).for_each(|(most, value)| *most = most.max(*value));
                }
                for (row, out) in input.chunks_exact(inner).zip(output.chunks_exact_mut(inner)) {
                    let values = row[columns.clone()].iter().zip(&mut out[columns.clone()]);
                    for (((value, out), most), sum) in values.zip(&*most).zip(&mut *sums) {
                        *out = (value - most).exp();
                        *sum += *out;
                    }
                }
                sums.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
                for out in output.chunks_exact_mut(inner) {
                    out[columns.clone()].iter_mut().zip(&*sums).for_each(|(out, scale)| *out *= scale);
                }
            }
        }
    }
}

impl Op for ColumnSoftmax {
    fn name(&self) -> StaticName {
        "ColumnSoftmax".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for ColumnSoftmax {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut output = Tensor::zero::<f32>(input.shape())?;
        let values = input.try_as_plain_ram()?;
        let mut view = output.to_plain_array_view_mut::<f32>()?;
        self.run(values.as_slice::<f32>()?, view.as_slice_mut().context("a new tensor is not contiguous")?);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for ColumnSoftmax {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let input = inputs.first().context("a softmax has no input")?;
        Ok(tvec!(f32::fact(input.shape.clone())))
    }

    as_op!();
}
