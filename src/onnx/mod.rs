//! ONNX files: the safety gate that every model passes first, what a file declares about itself, and its messages.
//!
//! The gate walks the raw protobuf bytes with fixed limits, before any parser that allocates what the file claims.

mod error;
mod external;
mod gate;
mod info;
pub(crate) mod messages;
mod protobuf;
mod tensor;
#[cfg(test)]
pub(crate) mod tests;

pub use error::{GateError, OnnxError};
pub(crate) use gate::{MAX_FILE, Policy};
pub use info::{Dim, OnnxInfo, Port};
pub(crate) use info::{port, read};

/// Passes a model through the gate and copies its external data from `folder` into it. Also returns whether there was
/// any.
pub(crate) fn admit(
    bytes: Vec<u8>,
    folder: &std::path::Path,
    policy: Policy<'_>,
) -> Result<(Vec<u8>, bool), GateError> {
    if gate::inspect(&bytes, policy)? == 0 {
        return Ok((bytes, false));
    }
    let whole = external::inline(&bytes, folder)?;
    drop(bytes);
    // What was copied in must pass as well: its length must be that of the shape.
    gate::inspect(&whole, Policy { external_data: false, ..policy })?;
    Ok((whole, true))
}
