#![allow(clippy::unwrap_used)]
use super::block::plain;
use super::*;

/// Values without a pattern, −1 to 1.
fn noise(len: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        f64::from(seed) / f64::from(u32::MAX) * 2.0 - 1.0
    };
    (0..len).map(|_| next() as f32).collect()
}

fn window(channels: usize, input: [usize; 2], kernel: [usize; 2], stride: [usize; 2], pad: [usize; 2]) -> Window {
    let output = [0, 1].map(|n| (input[n] + 2 * pad[n] - kernel[n]) / stride[n] + 1);
    Window { channels, input, output, kernel, stride, pad }
}

/// The definition, in double precision. `channels`: those that output `m` sees.
fn expected(
    window: &Window,
    channels: &dyn Fn(usize) -> Vec<usize>,
    weights: &[f32],
    bias: &[f32],
    input: &[f32],
) -> Vec<f64> {
    let [height, width] = window.input;
    let (depth, mut out) = (weights.len() / bias.len(), Vec::new());
    for (m, bias) in bias.iter().enumerate() {
        for (y, x) in (0..window.output[0]).flat_map(|y| (0..window.output[1]).map(move |x| (y, x))) {
            let mut sum = f64::from(*bias);
            for (n, channel) in channels(m).into_iter().enumerate() {
                for (ky, kx) in (0..window.kernel[0]).flat_map(|ky| (0..window.kernel[1]).map(move |kx| (ky, kx))) {
                    let (y, x) = (y * window.stride[0] + ky, x * window.stride[1] + kx);
                    if (window.pad[0]..height + window.pad[0]).contains(&y)
                        && (window.pad[1]..width + window.pad[1]).contains(&x)
                    {
                        let value = input[(channel * height + y - window.pad[0]) * width + x - window.pad[1]];
                        let weight = weights[m * depth + n * window.taps() + ky * window.kernel[1] + kx];
                        sum += f64::from(value) * f64::from(weight);
                    }
                }
            }
            out.push(sum);
        }
    }
    out
}

fn silu(value: f64) -> f64 {
    value / (1.0 + (-value).exp())
}

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (n, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(off <= 2e-5 * (1.0 + expected.abs()), "{what}: value {n} is {got}, not {expected}");
    }
}

fn windows() -> Vec<Window> {
    vec![
        window(3, [9, 21], [3, 3], [1, 1], [1, 1]),
        window(3, [9, 21], [3, 3], [2, 2], [1, 1]),
        window(2, [10, 40], [5, 3], [2, 1], [2, 1]),
        window(4, [7, 5], [3, 3], [1, 1], [2, 2]),
        window(5, [13, 50], [1, 1], [2, 2], [0, 0]),
        window(2, [12, 60], [6, 6], [2, 2], [2, 2]),
        window(2, [12, 19], [3, 4], [1, 3], [0, 1]),
        window(2, [1, 40], [1, 3], [1, 1], [0, 1]),
        // Several passes, and bands of less than the whole height.
        window(70, [40, 48], [3, 3], [1, 1], [1, 1]),
        window(70, [39, 47], [3, 3], [2, 2], [1, 1]),
    ]
}

#[test]
fn a_convolution_is_the_sum_that_defines_it() {
    let mut all = windows();
    all.extend([1, 300].map(|channels| window(channels, [5, 7], [1, 1], [1, 1], [0, 0])));
    for window in all {
        for outputs in [1, 2, 9, 16] {
            let what = format!("{outputs} outputs of {window:?}");
            let input = noise(window.input_len(), 7);
            let weights = noise(outputs * window.channels * window.taps(), 11);
            let bias = noise(outputs, 13);
            let conv = Conv::new(window.clone(), &weights, bias.clone(), Activation::None).unwrap();
            let sums = expected(&window, &|_| (0..window.channels).collect(), &weights, &bias, &input);
            let mut got = vec![f32::NAN; conv.output_len()];
            assert!(conv.run(&input, None, &mut got));
            assert_close(&got, &sums, &what);
            got.fill(f32::NAN);
            conv.run_with(&input, None, &mut got, plain);
            assert_close(&got, &sums, &format!("plain, {what}"));
        }
    }
}

#[test]
fn the_activation_comes_before_the_residual() {
    let window = window(70, [6, 21], [3, 3], [1, 1], [1, 1]);
    let (input, weights, bias) = (noise(window.input_len(), 1), noise(70 * 9 * 8, 2), noise(8, 3));
    let conv = Conv::new(window.clone(), &weights, bias.clone(), Activation::Silu).unwrap();
    let residual = noise(conv.output_len(), 4);
    let sums = expected(&window, &|_| (0..window.channels).collect(), &weights, &bias, &input);
    let sums: Vec<f64> = sums.iter().zip(&residual).map(|(&sum, &other)| silu(sum) + f64::from(other)).collect();
    let mut got = vec![0.0; conv.output_len()];
    assert!(conv.run(&input, Some(&residual), &mut got));
    assert_close(&got, &sums, "silu and residual");
    got.fill(0.0);
    conv.run_with(&input, Some(&residual), &mut got, plain);
    assert_close(&got, &sums, "silu and residual, plain");
}

#[test]
fn a_depthwise_convolution_sees_one_channel() {
    for window in windows() {
        for activation in [Activation::None, Activation::Silu] {
            let (input, bias) = (noise(window.input_len(), 5), noise(window.channels, 6));
            let weights = noise(window.channels * window.taps(), 8);
            let Some(conv) = Depthwise::new(window.clone(), weights.clone(), bias.clone(), activation) else {
                assert_eq!(window.taps(), 1);
                continue;
            };
            let mut sums = expected(&window, &|m| vec![m], &weights, &bias, &input);
            if activation == Activation::Silu {
                sums.iter_mut().for_each(|sum| *sum = silu(*sum));
            }
            let mut got = vec![f32::NAN; conv.output_len()];
            assert!(conv.run(&input, &mut got));
            assert_close(&got, &sums, &format!("{activation:?} {window:?}"));
            got.fill(f32::NAN);
            conv.run_with(&input, &mut got, depthwise::plain);
            assert_close(&got, &sums, &format!("plain, {activation:?} {window:?}"));
        }
    }
}

#[test]
fn the_activation_holds_for_extreme_values() {
    let values = [0.0_f32, -0.0, 1e-30, -1e-30, 20.0, -20.0, 80.0, -86.0, -90.0, -500.0, 500.0, 3e38, -1e6, f32::NAN];
    let window = window(1, [1, values.len()], [1, 1], [1, 1], [0, 0]);
    let conv = Conv::new(window, &[1.0], vec![0.0], Activation::Silu).unwrap();
    let mut got = [1.0; 14];
    assert!(conv.run(&values, None, &mut got));
    for (value, got) in values.into_iter().zip(got) {
        let expected = silu(f64::from(value));
        let right = (f64::from(got) - expected).abs() <= 1e-6 * expected.abs() + 1e-30;
        assert!(right || value.is_nan() && got.is_nan(), "silu({value}) is {got}, not {expected}");
    }
}

#[test]
fn lengths_that_do_not_match_are_refused() {
    let window = window(2, [4, 4], [3, 3], [1, 1], [1, 1]);
    assert!(Conv::new(window.clone(), &[0.0; 17], vec![0.0], Activation::None).is_none());
    assert!(Conv::new(window.clone(), &[], vec![], Activation::None).is_none());
    assert!(Depthwise::new(window.clone(), vec![0.0; 17], vec![0.0; 2], Activation::None).is_none());
    let conv = Conv::new(window, &[0.0; 18], vec![0.0], Activation::None).unwrap();
    let mut output = [1.0; 16];
    assert!(!conv.run(&[0.0; 31], None, &mut output));
    assert!(!conv.run(&[0.0; 32], Some(&[0.0; 15]), &mut output));
    assert!(!conv.run(&[0.0; 32], None, &mut output[1..]));
    assert_eq!(output, [1.0; 16]);
}
