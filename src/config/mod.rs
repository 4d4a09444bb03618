//! The configuration file: parsed, checked as a whole, and resolved. Parsing does no I/O beyond reading the files named.
//!
//! Belongs here: what the keys mean and every message about them. Does not belong here: opening cameras or sockets.

mod cameras;
mod check;
mod error;
mod interpolate;
mod keys;
mod load;
mod mask;
mod reference;
mod resolve;
mod resolved;
mod resolved_camera;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod value;
mod view;

pub use error::{ConfigErrors, Problem};
pub use load::{DEFAULT_FILES, Loaded, load, load_all, load_without_secrets};
pub use reference::reference;
pub use resolved::{
    Arena, BackendChoice, BatchProfile, Config, CudaConfig, CudnnSearch, HttpConfig, JsonlConfig, ModelConfig,
    MqttConfig, OpenvinoConfig, Precision, RtspConfig, TensorrtConfig,
};
pub use resolved_camera::{CameraConfig, Capture, DetectConfig, ReconnectConfig, SourceConfig, Transport, UsbFormat};
pub use schema::schema;
