#![allow(clippy::unwrap_used)]
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, PaddingSpec, PoolSpec};
use tract_onnx::tract_core::ops::math::{add, mul};
use tract_onnx::tract_core::ops::nn::{DataFormat, Softmax, sigmoid};

use super::{fuse, replace, softmax};

/// Values without a pattern, −1 to 1.
fn noise(shape: &[usize], mut seed: u32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            (f64::from(seed) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
        })
        .collect();
    Tensor::from_shape(shape, &values).unwrap()
}

/// A convolution of three by three with padding, as the loader leaves it.
#[derive(Clone)]
struct Layer {
    name: &'static str,
    input: OutletId,
    inputs: usize,
    outputs: usize,
    group: usize,
    stride: usize,
    dilation: usize,
}

impl Layer {
    fn new(name: &'static str, input: OutletId, inputs: usize, outputs: usize) -> Self {
        Self { name, input, inputs, outputs, group: 1, stride: 1, dilation: 1 }
    }

    fn wire(self, model: &mut TypedModel) -> OutletId {
        let Self { name, input, inputs, outputs, group, stride, dilation } = self;
        let weights = noise(&[outputs, inputs / group, 3, 3], 3 + outputs as u32);
        let weights = model.add_const(format!("{name}.weights"), weights).unwrap();
        let bias = model.add_const(format!("{name}.bias"), noise(&[outputs], 17)).unwrap();
        let pool_spec = PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec!(3, 3),
            padding: PaddingSpec::Explicit(tvec!(dilation, dilation), tvec!(dilation, dilation)),
            dilations: Some(tvec!(dilation, dilation)),
            strides: Some(tvec!(stride, stride)),
            input_channels: inputs,
            output_channels: outputs,
        };
        let conv = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params: None };
        model.wire_node(name, conv, &[input, weights, bias]).unwrap()[0]
    }
}

fn source(batch: usize) -> (TypedModel, OutletId) {
    let mut model = TypedModel::default();
    let input = model.add_source("input", f32::fact([batch, 6, 16, 20])).unwrap();
    (model, input)
}

fn silu(model: &mut TypedModel, name: &str, wire: OutletId) -> OutletId {
    let gate = model.wire_node(format!("{name}.sigmoid"), sigmoid(), &[wire]).unwrap()[0];
    model.wire_node(format!("{name}.silu"), mul(), &[gate, wire]).unwrap()[0]
}

fn sum(model: &mut TypedModel, name: &str, one: OutletId, other: OutletId) -> OutletId {
    model.wire_node(name, add(), &[one, other]).unwrap()[0]
}

/// Rewrites the graph, compares its output with that of the original, and returns the operators left, without constants
/// and sources.
fn rewritten(mut model: TypedModel, outputs: &[OutletId]) -> Vec<String> {
    model.select_output_outlets(outputs).unwrap();
    let shape = model.input_fact(0).unwrap().shape.as_concrete().unwrap().to_vec();
    let input = noise(&shape, 99);
    let plain = model.clone().into_runnable().unwrap().run(tvec!(input.clone().into_tvalue())).unwrap();
    fuse(&mut model).unwrap();
    let mut names: Vec<String> = model.nodes().iter().map(|node| node.op.name().to_string()).collect();
    names.retain(|name| name != "Const" && name != "Source");
    names.sort();
    let optimised = model.into_optimized().unwrap().into_runnable().unwrap();
    let ours = optimised.run(tvec!(input.into_tvalue())).unwrap();
    assert_eq!(plain.len(), ours.len());
    for (plain, ours) in plain.iter().zip(&ours) {
        assert_eq!(plain.shape(), ours.shape());
        let [plain, ours] = [plain, ours].map(|values| values.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap());
        // Sums are taken in another order, and tract's sigmoid is an approximation of its own.
        let far = plain.iter().zip(ours).position(|(a, b)| (a - b).abs() > 1e-5 * (1.0 + a.abs()));
        assert_eq!(far, None, "a value is off");
    }
    names
}

#[test]
fn a_convolution_takes_its_activation_and_its_residual() {
    for batch in [1, 3] {
        let (mut model, input) = source(batch);
        let first = Layer::new("first", input, 6, 6).wire(&mut model);
        let first = silu(&mut model, "first", first);
        let both = sum(&mut model, "both", first, input);
        let last = Layer { stride: 2, ..Layer::new("last", both, 6, 9) }.wire(&mut model);
        assert_eq!(rewritten(model, &[last]), ["FusedConv", "FusedConv"], "batch of {batch}");
    }
}

#[test]
fn a_depthwise_convolution_takes_its_activation() {
    let (mut model, input) = source(2);
    let wire = Layer { group: 6, ..Layer::new("conv", input, 6, 6) }.wire(&mut model);
    let wire = silu(&mut model, "conv", wire);
    let wire = sum(&mut model, "sum", wire, input);
    assert_eq!(rewritten(model, &[wire]), ["Add", "FusedDepthwiseConv"]);
}

#[test]
fn values_that_are_read_elsewhere_stay() {
    let (mut model, input) = source(1);
    let raw = Layer::new("raw", input, 6, 6).wire(&mut model);
    let smooth = silu(&mut model, "raw", raw);
    assert_eq!(rewritten(model, &[smooth, raw]), ["FusedConv", "Mul", "Sigmoid"], "the sum before the activation");

    let (mut model, input) = source(1);
    let wire = Layer::new("conv", input, 6, 6).wire(&mut model);
    let smooth = silu(&mut model, "conv", wire);
    let both = sum(&mut model, "both", smooth, input);
    assert_eq!(rewritten(model, &[both, smooth]), ["Add", "FusedConv"], "the value before the residual");

    let (mut model, input) = source(1);
    let wire = Layer::new("conv", input, 6, 6).wire(&mut model);
    let gate = model.wire_node("gate", sigmoid(), &[wire]).unwrap()[0];
    let smooth = model.wire_node("smooth", mul(), &[wire, gate]).unwrap()[0];
    let both = sum(&mut model, "both", smooth, gate);
    assert_eq!(rewritten(model, &[both]), ["Add", "FusedConv", "Mul", "Sigmoid"], "the sigmoid");
}

#[test]
fn a_sum_with_itself_or_with_another_shape_is_no_residual() {
    let (mut model, input) = source(1);
    let wire = Layer::new("conv", input, 6, 6).wire(&mut model);
    let twice = sum(&mut model, "twice", wire, wire);
    assert_eq!(rewritten(model, &[twice]), ["Add", "FusedConv"]);

    let (mut model, input) = source(1);
    let wire = Layer::new("conv", input, 6, 6).wire(&mut model);
    let row = model.wire_node("row", tract_onnx::tract_core::ops::array::Slice::new(2, 0, 1), &[input]).unwrap()[0];
    let both = sum(&mut model, "both", wire, row);
    assert_eq!(rewritten(model, &[both]), ["Add", "FusedConv", "Slice"]);
}

#[test]
fn unsupported_convolutions_are_left_to_tract() {
    let (mut model, input) = source(1);
    let wire = Layer { dilation: 2, ..Layer::new("dilated", input, 6, 6) }.wire(&mut model);
    assert_eq!(rewritten(model, &[wire]), ["Conv"], "dilated");

    let (mut model, input) = source(1);
    let wire = Layer { group: 2, ..Layer::new("grouped", input, 6, 6) }.wire(&mut model);
    assert_eq!(rewritten(model, &[wire]), ["Conv"], "two groups");

    let (mut model, input) = source(1);
    let wire = Layer { stride: 3, ..Layer::new("small", input, 6, 6) }.wire(&mut model);
    assert_eq!(rewritten(model, &[wire]), ["Conv"], "42 pixels");

    let (mut model, input) = source(1);
    let wire = Layer::new("scaled", input, 6, 6).wire(&mut model);
    let factors = model.add_const("factors", noise(&[1, 6, 1, 1], 5)).unwrap();
    let wire = model.wire_node("scale", mul(), &[wire, factors]).unwrap()[0];
    assert_eq!(rewritten(model, &[wire]), ["Conv", "Mul"], "factors that tract takes into the weights");
}

#[test]
fn a_softmax_down_the_columns_gives_the_same() {
    // Some more columns than a block has; the last axis and a short one are left to tract.
    for (shape, axis, ours) in [
        ([2, 16, 4, 100], 1, true),
        ([1, 3, 5, 16], 2, true),
        ([2, 4, 3, 20], 0, true),
        ([1, 4, 5, 300], 3, false),
        ([1, 4, 16, 15], 2, false),
    ] {
        let mut model = TypedModel::default();
        let input = model.add_source("input", f32::fact(shape)).unwrap();
        let output = model.wire_node("softmax", Softmax { axes: tvec!(axis), ..Softmax::default() }, &[input]).unwrap();
        model.select_output_outlets(&output).unwrap();
        let mut values = noise(&shape, 5).cast_to::<f32>().unwrap().into_owned();
        values.to_plain_array_view_mut::<f32>().unwrap().mapv_inplace(|value| value * 30.0);
        let run = |model: TypedModel| model.into_runnable().unwrap().run(tvec!(values.clone().into_tvalue())).unwrap();
        let expected = run(model.clone());
        replace(&mut model, softmax::softmax).unwrap();
        let found = model.nodes().iter().any(|node| node.op.name() == "ColumnSoftmax");
        assert_eq!(found, ours, "{shape:?}, {axis}");
        run(model)[0].close_enough(&expected[0], tract_onnx::tract_core::internal::Approximation::Close).unwrap();
    }
}
