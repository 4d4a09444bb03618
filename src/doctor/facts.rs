//! Everything that was seen, before anybody judges it.

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
use crate::source::CameraProbe;

/// What is asked for: the configuration, if there is a good one.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The configuration; `None`: no file, or a wrong one.
    pub config: Option<Config>,
    /// What is wrong with the configuration, in the words of `config check`.
    pub errors: Option<String>,
    /// Names in `${…}` that are defined nowhere, when nothing else is wrong: the service may have them from systemd. Their
    /// values in the configuration mean nothing.
    pub secrets: Vec<String>,
    /// What is doubtful in it.
    pub warnings: Vec<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

impl Scope {
    /// True when a password of the configuration cannot be told from one that is missing.
    pub fn lacks(&self, password: Option<&String>) -> bool {
        !self.secrets.is_empty() && password.is_some()
    }

    /// The backend asked for; `auto` without a configuration.
    pub fn backend(&self) -> BackendChoice {
        self.config.as_ref().map_or(BackendChoice::Auto, |config| config.model.backend)
    }
}

/// A port that a server of ours wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// `rtsp` or `http`: the section of the configuration.
    pub server: String,
    /// Where it would listen.
    pub address: SocketAddr,
    /// Why it cannot; `None`: it can.
    pub trouble: Option<String>,
    /// Name and id of the process that listens there.
    pub holder: Option<(String, u32)>,
}

/// The broker of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// `host:port`.
    pub address: String,
    /// The password travels encrypted, and certificates are checked: the clock must be right.
    pub tls: bool,
    /// Took us, or why not: a sentence whose subject is the broker. `None`: its password is not at hand.
    pub outcome: Option<Limited<()>>,
}

/// One camera of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraFacts {
    /// Its name.
    pub name: String,
    /// Address or path, without credentials.
    pub source: String,
    /// A camera, not a file.
    pub live: bool,
    /// What came.
    pub outcome: Asked,
}

/// What became of a camera.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// It was asked.
    Yes(Limited<CameraProbe>),
    /// It is switched off.
    Off,
    /// Its password is not at hand.
    NoSecret,
}

/// systemd's folder of credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `CREDENTIALS_DIRECTORY`.
    pub folder: PathBuf,
    /// Names of the credentials; `None`: it cannot be read.
    pub names: Option<Vec<String>>,
}

/// What was seen on the box.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What is asked for.
    pub scope: Scope,
    /// The board.
    pub board: Board,
    /// Main memory.
    pub memory: Option<Memory>,
    /// Power and temperature.
    pub power: Power,
    /// The clock.
    pub clock: Clock,
    /// Folders that are written to.
    pub folders: Vec<Folder>,
    /// Device nodes.
    pub devices: Devices,
    /// Whether the service's drop-in allows these nodes; `None`: there is no service, or no node.
    pub dropin: Option<bool>,
    /// Nodes of an NVIDIA GPU.
    pub gpu: Vec<String>,
    /// NVIDIA's libraries.
    pub libraries: Limited<Libraries>,
    /// The model: what it is, or what is wrong with it.
    pub model: Limited<String>,
    /// What runs models.
    pub runtime: Limited<Runtime>,
    /// GStreamer.
    pub media: Limited<Media>,
    /// systemd's credentials, when it gave some.
    pub credentials: Option<Credentials>,
    /// The broker, when one is configured.
    pub broker: Option<Broker>,
    /// Ports, when a configuration says which.
    pub ports: Vec<Port>,
    /// Cameras of the configuration.
    pub cameras: Vec<CameraFacts>,
}
