//! The configuration file: parsed, checked as a whole, and read into structs. Parsing does no I/O beyond reading the files
//! named.
//!
//! A key's way: `tree` (YAML with places) → `interpolate` (`${NAME}`) → `layers` (files, variables and arguments merged) →
//! `read` (typed, by the definitions in `file`, `model`, `outputs`, `camera`) → `rules` (what no key can check alone).
//! A new key is one line in one of the files of definitions; see `macros`.

mod camera;
mod camera_rules;
mod error;
mod field;
mod file;
mod interpolate;
mod layers;
mod load;
mod macros;
mod mask;
mod model;
mod outputs;
mod read;
mod reference;
mod rules;
mod schema;
mod section;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod value;

pub use camera::{CameraConfig, Capture, DetectConfig, ReconnectConfig, SourceConfig, Transport, UsbFormat};
pub use error::{ConfigErrors, Problem};
pub use file::{CameraDefaults, Config};
pub use load::{DEFAULT_FILES, Loaded, load, load_all, load_without_secrets};
pub use model::{
    Arena, BackendChoice, BatchProfile, CudaConfig, CudnnSearch, ModelConfig, OpenvinoConfig, Precision, TensorrtConfig,
};
pub use outputs::{Broker, HttpConfig, JsonlConfig, MqttConfig, RtspConfig};
pub use reference::reference;
pub use schema::schema;
