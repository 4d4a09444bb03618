//! The smallest model that shows a runtime load a graph and run it: a Relu of four values.

pub(in crate::infer) const MODEL: &[u8] = b"\x08\x08\x3a\x33\
    \x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\x12\x01g\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x04\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x04\
    \x42\x02\x10\x0d";
pub(in crate::infer) const INPUT: [f32; 4] = [-1.0, 0.0, 1.0, 2.0];
pub(in crate::infer) const OUTPUT: [f32; 4] = [0.0, 0.0, 1.0, 2.0];
