//! Fused operators for tract: convolution, SiLU and residual as one operator, on AVX2 and FMA; and a softmax over columns.
//!
//! tract multiplies matrices well, but loses time around the product: a second pass for the activation, windows gathered
//! value by value, a product over concatenated inputs split into slow halves, and a direct convolution that is several times
//! slower than the product with a stride of two. `docs/design/tract-convolutions.md` has the figures and the plan to offer
//! this upstream.

mod kernel;
mod op;
mod softmax;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::model::TypedModelPatch;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::math::{Add, Mul};
use tract_onnx::tract_core::ops::nn::{DataFormat, Sigmoid};
use tract_onnx::tract_core::optim::Optimizer;

use kernel::{Activation, Depthwise, Window};
use op::{FusedConv, Kernel};

/// Fewest output pixels for which a fused convolution is faster than tract's product.
const MIN_PIXELS: usize = 64;

/// Rewrites a loaded graph and lets tract optimise it.
pub(crate) fn optimise(mut model: TypedModel) -> TractResult<TypedModel> {
    replace(&mut model, softmax::softmax)?;
    if kernel::fast() {
        fuse(&mut model)?;
    }
    model.into_optimized()
}

/// Replaces all convolutions that fit, whatever the processor.
fn fuse(model: &mut TypedModel) -> TractResult<()> {
    // Weights and biases are behind casts that change nothing.
    Optimizer::prop_consts().session().optimize(model)?;
    replace(model, fused)?;
    model.compact()
}

/// Applies the patches that `patch` gives for nodes.
fn replace(
    model: &mut TypedModel,
    patch: impl Fn(&TypedModel, usize) -> TractResult<Option<TypedModelPatch>>,
) -> TractResult<()> {
    for id in model.eval_order()? {
        if let Some(patch) = patch(model, id)? {
            patch.apply(model)?;
        }
    }
    Ok(())
}

/// The convolution at a node, fused with what follows it.
fn fused(model: &TypedModel, id: usize) -> TractResult<Option<TypedModelPatch>> {
    let node = model.node(id);
    let (Some(op), &[input, weights, bias]) = (node.op_as::<Conv>(), node.inputs.as_slice()) else { return Ok(None) };
    let (weights, bias) = (constant(model, weights)?, constant(model, bias)?);
    let (Some(weights), Some(bias)) = (weights, bias) else { return Ok(None) };
    let Some((batch, window)) = window(op, model.outlet_fact(input)?)? else { return Ok(None) };
    if scaled_later(model, id)? {
        return Ok(None);
    }
    let outputs = op.output_channels();
    let bias = match bias.as_slice() {
        [one] => vec![*one; outputs],
        _ => bias,
    };
    let silu = silu_after(model, id);
    let activation = if silu.is_some() { Activation::Silu } else { Activation::None };
    let mut last = silu.unwrap_or(id);
    let mut inputs = vec![input];
    let size = window.output;
    let kernel = if op.group == 1 {
        if let Some((add, other)) = residual_after(model, last)? {
            (last, inputs) = (add, vec![input, other]);
        }
        kernel::Conv::new(window, &weights, bias, activation).map(Kernel::Dense)
    } else {
        Depthwise::new(window, weights, bias, activation).map(Kernel::Depthwise)
    };
    let Some(kernel) = kernel else { return Ok(None) };
    let op = FusedConv { kernel: Arc::new(kernel), shape: [batch, outputs, size[0], size[1]] };
    let mut patch = TypedModelPatch::new("fused convolution");
    let taps = patch.taps(model, &inputs)?;
    let wire = patch.wire_node(&model.node(last).name, op, &taps)?;
    patch.shunt_outside(model, last.into(), wire.first().copied().unwrap_or(OutletId::new(0, 0)))?;
    Ok(Some(patch))
}

/// The values of a constant of type f32.
fn constant(model: &TypedModel, outlet: OutletId) -> TractResult<Option<Vec<f32>>> {
    let Some(tensor) = model.outlet_fact(outlet)?.konst.as_ref() else { return Ok(None) };
    if tensor.datum_type() != f32::datum_type() {
        return Ok(None);
    }
    Ok(tensor.try_as_plain_ram().and_then(|view| Ok(view.as_slice::<f32>()?.to_vec())).ok())
}

/// The batch size and the window of a convolution that [`FusedConv`] supports.
fn window(op: &Conv, input: &TypedFact) -> TractResult<Option<(usize, Window)>> {
    let spec = &op.pool_spec;
    let known = input.datum_type == f32::datum_type()
        && op.q_params.is_none()
        && op.kernel_fmt == KernelFormat::OIHW
        && spec.data_format == DataFormat::NCHW
        && spec.dilations().iter().all(|&dilation| dilation == 1);
    let depthwise = op.group == op.input_channels() && op.group == op.output_channels();
    let Some(&[batch, channels, height, width]) = input.shape.as_concrete() else { return Ok(None) };
    let (&[tall, wide], &[down, right]) = (spec.kernel_shape.as_slice(), &*spec.strides()) else { return Ok(None) };
    if !known || (op.group != 1 && !depthwise) {
        return Ok(None);
    }
    let padding = spec.computed_padding(&[height, width]);
    let [rows, columns] = padding.as_slice() else { return Ok(None) };
    let window = Window {
        channels,
        input: [height, width],
        output: [rows.convoluted, columns.convoluted],
        kernel: [tall, wide],
        stride: [down, right],
        pad: [rows.pad_before, columns.pad_before],
    };
    Ok((rows.convoluted * columns.convoluted >= MIN_PIXELS).then_some((batch, window)))
}

/// Whether a factor or summand per channel follows, which tract folds into the weights.
fn scaled_later(model: &TypedModel, id: usize) -> TractResult<bool> {
    let Some(next) = only_reader(model, id) else { return Ok(false) };
    let node = model.node(next);
    if node.op_as::<TypedBinOp>().is_none() {
        return Ok(false);
    }
    for &outlet in &node.inputs {
        if model.outlet_fact(outlet)?.konst.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The only node that reads the only output of a node.
fn only_reader(model: &TypedModel, id: usize) -> Option<usize> {
    let node = model.node(id);
    match node.outputs.as_slice() {
        [output] if output.successors.len() == 1 && !model.outputs.contains(&id.into()) => {
            output.successors.first().map(|inlet| inlet.node)
        }
        _ => None,
    }
}

/// The product of a node's output and its sigmoid, if nothing else reads either.
fn silu_after(model: &TypedModel, id: usize) -> Option<usize> {
    let node = model.node(id);
    let outlet = OutletId::new(id, 0);
    let [output] = node.outputs.as_slice() else { return None };
    let [one, other] = output.successors.as_slice() else { return None };
    if model.outputs.contains(&outlet) {
        return None;
    }
    [(one.node, other.node), (other.node, one.node)].into_iter().find_map(|(sigmoid, product)| {
        let is_sigmoid = model.node(sigmoid).op_as::<ElementWiseOp>()?.0.is::<Sigmoid>();
        let is_product = model.node(product).op_as::<TypedBinOp>()?.0.is::<Mul>();
        let inputs = &model.node(product).inputs;
        let both = inputs.contains(&outlet) && inputs.contains(&sigmoid.into());
        (is_sigmoid && is_product && both && only_reader(model, sigmoid) == Some(product)).then_some(product)
    })
}

/// The sum of a node's output and another value of the same shape, if nothing else reads the output; and that value.
fn residual_after(model: &TypedModel, id: usize) -> TractResult<Option<(usize, OutletId)>> {
    let Some(next) = only_reader(model, id) else { return Ok(None) };
    let node = model.node(next);
    let Some(&other) = node.inputs.iter().find(|outlet| outlet.node != id) else { return Ok(None) };
    let is_sum = node.op_as::<TypedBinOp>().is_some_and(|op| op.0.is::<Add>()) && node.inputs.len() == 2;
    let (ours, theirs) = (model.outlet_fact(id.into())?, model.outlet_fact(other)?);
    let alike = ours.shape == theirs.shape && ours.datum_type == theirs.datum_type;
    Ok((is_sum && alike).then_some((next, other)))
}
