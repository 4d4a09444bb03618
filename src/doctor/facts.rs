//! Everything that was found, before it is assessed.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::board::Board;
use super::devices::Devices;
use super::libraries::Libraries;
use super::limit::Limited;
use super::media::Media;
use super::runtime::Runtime;
use super::system::{Clock, Folder, Memory, Power};
use crate::config::{BackendChoice, Config};
use crate::infer::{self, Device};
use crate::source::CameraProbe;

/// The configuration, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// `None`: no file, or an invalid one.
    pub config: Option<Config>,
    /// What is wrong with it, in the words of `config check`.
    pub errors: Option<String>,
    /// Undefined names in `${…}`, when nothing else is wrong: systemd may give them to the service. Their values in `config` are
    /// placeholders.
    pub secrets: Vec<String>,
    pub warnings: Vec<String>,
    pub files: Vec<PathBuf>,
}

impl Scope {
    /// Whether `password` may be a placeholder for a secret that is not available.
    pub fn lacks(&self, password: Option<&String>) -> bool {
        !self.secrets.is_empty() && password.is_some()
    }

    /// `auto` without a configuration.
    pub fn backend(&self) -> BackendChoice {
        self.config.as_ref().map_or(BackendChoice::Auto, |config| config.model.backend)
    }

    /// Whether the configuration names a backend that runs on a GPU.
    pub fn wants_gpu(&self) -> bool {
        infer::named_backend(self.backend()).is_some_and(|backend| backend.device == Device::Gpu)
    }
}

/// A port on which the service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `rtsp` or `http`: the section of the configuration.
    pub server: String,
    pub address: SocketAddr,
    /// Why it cannot be used.
    pub trouble: Option<String>,
    /// Name and id of the process that listens there.
    pub holder: Option<(String, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// `host:port`.
    pub address: String,
    /// Certificates are checked, so the clock must be right.
    pub tls: bool,
    /// Whether it accepted the connection, or why not: a sentence whose subject is the broker. `None`: its password is not
    /// available.
    pub outcome: Option<Limited<()>>,
}

/// One camera of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraFacts {
    pub name: String,
    /// Address or path, without credentials.
    pub source: String,
    /// A camera, not a file.
    pub live: bool,
    pub outcome: Probed,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Probed {
    Yes(Limited<CameraProbe>),
    /// Switched off in the configuration.
    Off,
    /// Its password is not available.
    NoSecret,
}

/// systemd's folder of credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `CREDENTIALS_DIRECTORY`.
    pub folder: PathBuf,
    /// `None`: the folder cannot be read.
    pub names: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct Facts {
    pub scope: Scope,
    pub board: Board,
    pub memory: Option<Memory>,
    pub power: Power,
    pub clock: Clock,
    /// Folders that Ocelli writes to.
    pub folders: Vec<Folder>,
    pub devices: Devices,
    /// Whether the service's drop-in allows these nodes; `None`: there is no service, or no node.
    pub dropin: Option<bool>,
    /// Nodes of an NVIDIA GPU.
    pub gpu: Vec<String>,
    pub libraries: Limited<Libraries>,
    /// A description of the models, or what is wrong with them.
    pub model: Limited<String>,
    pub runtime: Limited<Runtime>,
    pub media: Limited<Media>,
    pub credentials: Option<Credentials>,
    pub broker: Option<Broker>,
    pub ports: Vec<Port>,
    pub cameras: Vec<CameraFacts>,
}
