//! Which board this is, and which JetPack is on it.

use super::Root;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Board {
    /// `NVIDIA Jetson Orin Nano Developer Kit`, or a PC's product name.
    pub model: Option<String>,
    pub arch: String,
    pub cpus: usize,
    pub os: Option<String>,
    pub kernel: Option<String>,
    /// Debian, Ubuntu or a derivative: packages are installed with apt-get.
    pub debian: bool,
    /// Runs in a container, where the host's settings are not visible.
    pub container: bool,
    pub jetson: Option<Jetson>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jetson {
    /// Version of NVIDIA's Linux for Tegra, `36.4.3`.
    pub l4t: Option<String>,
    /// `6.2`, or `6` when only the version of Linux for Tegra is known.
    pub jetpack: Option<String>,
    /// `Orin`, `Xavier`, `Thor`.
    pub chip: Option<String>,
    pub no_encoder: bool,
}

impl Jetson {
    pub fn l4t_major(&self) -> Option<u32> {
        self.l4t.as_deref()?.split('.').next()?.parse().ok()
    }
}

pub(super) fn board(root: &Root) -> Board {
    let release = root.text("/etc/os-release").unwrap_or_default();
    let field = |name: &str| release.lines().find_map(|line| Some(unquoted(line.strip_prefix(name)?)));
    let family = format!("{} {}", field("ID=").unwrap_or_default(), field("ID_LIKE=").unwrap_or_default());
    let model = root
        .word("/proc/device-tree/model")
        .or_else(|| root.word("/sys/firmware/devicetree/base/model"))
        .or_else(|| root.word("/sys/class/dmi/id/product_name"))
        .or_else(|| cpu_name(&root.text("/proc/cpuinfo")?));
    Board {
        jetson: jetson(root, model.as_deref()),
        model,
        arch: std::env::consts::ARCH.into(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        os: field("PRETTY_NAME="),
        kernel: root.word("/proc/sys/kernel/osrelease"),
        debian: family.split_whitespace().any(|word| word == "debian" || word == "ubuntu"),
        container: ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].iter().any(|p| root.exists(p)),
    }
}

fn unquoted(text: &str) -> String {
    text.trim().trim_matches('"').to_owned()
}

fn cpu_name(info: &str) -> Option<String> {
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned()).filter(|name| !name.is_empty())
}

fn jetson(root: &Root, model: Option<&str>) -> Option<Jetson> {
    let release = root.text("/etc/nv_tegra_release");
    let boot = root.text("/etc/nv_boot_control.conf");
    let compatible = root.text("/proc/device-tree/compatible").unwrap_or_default();
    if release.is_none() && boot.is_none() && !compatible.contains("nvidia,tegra") {
        return None;
    }
    let packages = root.text("/var/lib/dpkg/status").unwrap_or_default();
    let core = installed(&packages, "nvidia-l4t-core").and_then(|v| Some(v.split('-').next()?.to_owned()));
    let l4t = release.as_deref().and_then(l4t_release).or(core);
    let major = l4t.as_deref().and_then(|l4t| l4t.split('.').next()?.parse().ok());
    let jetpack = installed(&packages, "nvidia-jetpack")
        .map(|version| version.split(['+', '-']).next().unwrap_or_default().to_owned())
        .or_else(|| major.and_then(jetpack_of).map(str::to_owned));
    let boot = boot.unwrap_or_default();
    let spec = boot_value(&boot, "TNSPEC").or_else(|| boot_value(&boot, "COMPATIBLE_SPEC")).unwrap_or_default();
    let named = format!("{} {spec}", model.unwrap_or_default()).to_lowercase().replace('-', " ");
    Some(Jetson {
        chip: boot_value(&boot, "TEGRA_CHIPID").and_then(chip).map(str::to_owned),
        // An NX module on a Nano's carrier board has the carrier's name, but its own module number.
        no_encoder: nano_module(spec).unwrap_or_else(|| named.contains("orin nano")),
        l4t,
        jetpack,
    })
}

/// `# R36 (release), REVISION: 4.3, GCID: …` → `36.4.3`.
fn l4t_release(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("REVISION"))?;
    let major = line.trim_start_matches('#').trim().strip_prefix('R')?.split(|c: char| !c.is_ascii_digit()).next()?;
    let minor = line.split_once("REVISION:")?.1.trim().split([',', ' ']).next()?;
    let numeric = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    (numeric(major) && numeric(minor)).then(|| format!("{major}.{minor}"))
}

/// The JetPack of a major version of Linux for Tegra.
fn jetpack_of(major: u32) -> Option<&'static str> {
    match major {
        32 => Some("4"),
        34 | 35 => Some("5"),
        36 => Some("6"),
        38 => Some("7"),
        _ => None,
    }
}

/// The version of an installed package in dpkg's status file.
fn installed(status: &str, package: &str) -> Option<String> {
    let header = format!("Package: {package}");
    let stanza = status.split("\n\n").find(|stanza| stanza.lines().any(|line| line == header))?;
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
    field("Status: ").filter(|status| status.ends_with(" installed"))?;
    field("Version: ").map(|version| version.trim().to_owned())
}

fn boot_value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()))
}

fn chip(id: &str) -> Option<&'static str> {
    match id {
        "0x18" => Some("Parker"),
        "0x19" => Some("Xavier"),
        "0x21" => Some("X1"),
        "0x23" => Some("Orin"),
        "0x26" => Some("Thor"),
        _ => None,
    }
}

/// Whether a module's number (`3767-300-0005-…`) is an Orin Nano's; `None` when there is no number.
fn nano_module(spec: &str) -> Option<bool> {
    let mut parts = spec.split('-');
    let (family, sku) = (parts.next()?, parts.nth(1)?);
    let number = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(family) && number(sku)).then(|| family == "3767" && matches!(sku, "0003" | "0004" | "0005"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_nvidia_writes_them() {
        let text = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1";
        assert_eq!(l4t_release(text).as_deref(), Some("35.4.1"));
        assert_eq!(l4t_release("# R36 (release), REVISION: 2.0, GCID").as_deref(), Some("36.2.0"));
        for odd in ["", "R36", "# Rx (release), REVISION: 1", "# R36 (release), REVISION: evil; rm"] {
            assert_eq!(l4t_release(odd), None, "{odd}");
        }
    }

    #[test]
    fn only_an_installed_package_counts() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: nvidia-jetpack\n\
                      Status: deinstall ok config-files\nVersion: 6.2+b77\n";
        assert_eq!(installed(status, "a").as_deref(), Some("1"));
        assert_eq!(installed(status, "nvidia-jetpack"), None);
        assert_eq!(installed(status, "none"), None);
    }

    #[test]
    fn the_module_number_distinguishes_an_orin_nano_from_an_nx() {
        assert_eq!(nano_module("3767-300-0005-T.1-1-1-jetson-orin-nano-devkit-"), Some(true));
        assert_eq!(nano_module("3767-300-0000-A.1-1-1-jetson-orin-nano-devkit-"), Some(false));
        assert_eq!(nano_module("jetson-orin-nano-devkit"), None);
    }
}
