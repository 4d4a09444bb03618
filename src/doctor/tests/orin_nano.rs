//! An Orin Nano: its files as they lie on a real one, and everything that would be seen on it.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, UNIX_EPOCH};

use crate::config::Config;
use crate::doctor::devices::{Devices, Node, User};
use crate::doctor::facts::{Broker, Port, Probed};
use crate::doctor::media::Media;
use crate::doctor::runtime::{Runtime, Search};
use crate::doctor::system::Folder;
use crate::doctor::*;
use crate::infer::{LibrarySource, ProviderReport};
use crate::sink::encoder::EncoderPlan;
use crate::source::{CameraProbe, CodecPlan, DecoderPlan, ElementPlan, SourcePlan};
use crate::types::BackendKind;

/// Noon of the 24th of November 2026.
pub(super) const NOON: u64 = 1_795_521_600;

/// Files of an Orin Nano with JetPack 6.2, as far as they are read.
pub(super) const ORIN_NANO: [(&str, &str); 17] = [
    (
        "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
    ),
    (
        "etc/nv_boot_control.conf",
        "TNSPEC 3767-300-0005-T.1-1-1-jetson-orin-nano-devkit-super-\nTEGRA_CHIPID 0x23\nTEGRA_OTA_BOOT_DEVICE /dev/mtdblock0\n",
    ),
    ("etc/os-release", "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\nID=ubuntu\nID_LIKE=debian\n"),
    ("etc/group", "root:x:0:\nvideo:x:44:ocelli\nrender:x:104:\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nocelli:x:998:998::/var/lib/ocelli:/usr/sbin/nologin\n"),
    (
        "etc/nvpmodel.conf",
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    ),
    ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"),
    ("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0"),
    ("proc/meminfo", "MemTotal:        7802208 kB\nMemFree:          812004 kB\nMemAvailable:    5242880 kB\n"),
    ("proc/sys/kernel/osrelease", "5.15.148-tegra\n"),
    ("proc/self/status", "Name:\tocelli\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0 \n"),
    ("proc/devices", "Character devices:\n 10 misc\n226 drm\n511 nvgpu\n\nBlock devices:\n259 blkext\n"),
    (
        "var/lib/dpkg/status",
        "Package: nvidia-l4t-core\nStatus: install ok installed\nVersion: 36.4.3-20250107174145\n\nPackage: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n",
    ),
    ("var/lib/nvpmodel/status", "pmode:0001 fmode:quiet\n"),
    ("run/systemd/timesync/synchronized", ""),
    ("sys/class/hwmon/hwmon3/oc3_event_cnt", "0\n"),
    ("sys/class/thermal/thermal_zone0/temp", "52187\n"),
];

pub(super) fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = Root::new(dir.path());
    (dir, root)
}

pub(super) fn element(name: &str) -> ElementPlan {
    ElementPlan { element: name.into(), package: crate::source::package(name).into(), installed: true }
}

pub(super) fn decoder(name: &str, hardware: bool, trouble: Option<&str>) -> DecoderPlan {
    let package = crate::source::package(name).into();
    DecoderPlan { element: name.into(), package, hardware, trouble: trouble.map(str::to_owned) }
}

pub(super) fn media() -> Media {
    let codec =
        |codec: &str, decoders| CodecPlan { codec: codec.into(), elements: vec![element("h264parse")], decoders };
    Media {
        version: "1.20.3".into(),
        source: SourcePlan {
            rtsp: vec![element("rtspsrc"), element("appsink")],
            usb: vec![element("v4l2src")],
            csi: vec![element("nvarguscamerasrc")],
            file: vec![element("filesrc")],
            demuxers: vec![element("qtdemux")],
            codecs: vec![
                codec("H.264", vec![decoder("nvv4l2decoder", true, None), decoder("avdec_h264", false, None)]),
                codec(
                    "H.265",
                    vec![
                        decoder("nvv4l2decoder", true, Some("is installed, but its device does not open")),
                        decoder("avdec_h265", false, None),
                    ],
                ),
                codec("MJPEG", vec![decoder("jpegdec", false, None)]),
            ],
        },
        encoders: vec![
            EncoderPlan {
                element: "nvv4l2h264enc".into(),
                hardware: true,
                trouble: Some("nvv4l2h264enc: not installed".into()),
            },
            EncoderPlan { element: "x264enc".into(), hardware: false, trouble: None },
        ],
        output: vec![element("rtph264pay")],
        broken: vec!["/usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstnvdsosd.so".into()],
    }
}

pub(super) fn provider(kind: BackendKind, error: Option<&str>, missing: &[&str]) -> ProviderReport {
    ProviderReport {
        kind,
        library: (kind != BackendKind::Cpu).then(|| format!("/opt/ort/libonnxruntime_providers_{kind}.so").into()),
        present: kind != BackendKind::Cpu,
        missing: missing.iter().map(|name| (*name).to_owned()).collect(),
        error: error.map(str::to_owned),
    }
}

pub(super) fn runtime(providers: Vec<ProviderReport>) -> Runtime {
    Runtime {
        onnxruntime: Search {
            source: LibrarySource::Config,
            tried: vec![("/opt/ort/libonnxruntime.so".into(), Ok("1.23.2".into()))],
        },
        providers,
        openvino: Default::default(),
        tract: Some("tract 0.23.9".into()),
    }
}

/// A device node that belongs to a group.
pub(super) fn node(path: &str, group: &str, gid: u32, driver: &str) -> Node {
    Node { path: path.into(), gid, group: Some(group.into()), uid: 0, mode: 0o660, driver: Some(driver.into()) }
}

pub(super) fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ocelli.yaml");
    std::fs::write(&path, text).unwrap();
    crate::config::load(&[path], &[]).unwrap()
}

/// An Orin Nano on which much is right and something of each kind is wrong.
pub(super) fn orin_nano() -> Facts {
    let (_dir, root) = fixture(&ORIN_NANO);
    let mut config = config(
        "node: dock\nmqtt: {url: 'mqtts://broker.lan', username: ocelli, password: hunter2}\nhttp: {listen: '127.0.0.1:8080'}\n\
         cameras:\n  gate: 'rtsp://10.0.0.5/stream1'\n  yard: {url: 'rtsp://10.0.0.6/live', username: admin, password: hunter2}\n  old: {url: 'rtsp://10.0.0.7/', enabled: false}\n",
    );
    config.model.ort_library = Some("/opt/ort/libonnxruntime.so".into());
    Facts {
        scope: Scope { config: Some(config), files: vec!["/etc/ocelli/ocelli.yaml".into()], ..Scope::default() },
        board: board::Board { arch: "aarch64".into(), cpus: 6, ..board::board(&root) },
        memory: system::memory(&root),
        power: system::power(&root),
        clock: system::clock(&root, UNIX_EPOCH + Duration::from_secs(NOON)),
        folders: vec![
            Folder { purpose: "state".into(), path: "/var/lib/ocelli".into(), free: Some(31 << 30), trouble: None },
            Folder {
                purpose: "cache".into(),
                path: "/var/cache/ocelli".into(),
                free: Some(0),
                trouble: Some("the file system is read-only".into()),
            },
        ],
        devices: Devices {
            user: User { name: "ocelli".into(), uid: 998, gids: vec![998, 44] },
            nodes: vec![node("/dev/nvmap", "video", 44, "misc"), node("/dev/nvgpu/igpu0/ctrl", "render", 104, "nvgpu")],
        },
        dropin: Some(false),
        gpu: vec!["/dev/nvmap".into()],
        libraries: Ok(libraries::Libraries {
            driver: Some(library("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1", None)),
            cuda: Some(library("/usr/local/cuda/lib64/libcudart.so.12.6.68", None)),
            cudnn: Some(library(
                "/usr/lib/aarch64-linux-gnu/libcudnn.so.9.3.0",
                Some("it is truncated: it has 10 bytes"),
            )),
            ..Default::default()
        }),
        model: Ok("yolov5s, 320x320, 80 classes (/usr/share/ocelli/models/yolov5s/model.onnx)".into()),
        runtime: Ok(runtime(vec![
            provider(
                BackendKind::Tensorrt,
                Some("tensorrt: it says no"),
                &["libnvinfer.so.10", "libnvonnxparser.so.10"],
            ),
            provider(BackendKind::Cuda, None, &[]),
            provider(BackendKind::Cpu, None, &[]),
        ])),
        media: Ok(media()),
        credentials: None,
        broker: Some(Broker {
            address: "broker.lan:8883".into(),
            tls: true,
            outcome: Some(Err("cannot be reached: connection refused; is it running, and is `mqtt.url` right?".into())),
        }),
        ports: vec![port("rtsp", 8554, None, None), port("http", 8080, Some("is taken"), Some(("nginx".into(), 812)))],
        cameras: vec![
            CameraFacts {
                name: "gate".into(),
                source: "rtsp://10.0.0.5/stream1".into(),
                live: true,
                outcome: Probed::Yes(Ok(CameraProbe {
                    codec: Some("H.264".into()),
                    decoder: Some("nvv4l2decoder".into()),
                    width: 1920,
                    height: 1080,
                    fps: Some(25.0),
                    first_frame_s: 1.24,
                })),
            },
            CameraFacts { name: "old".into(), source: "rtsp://10.0.0.7/".into(), live: true, outcome: Probed::Off },
            CameraFacts {
                name: "yard".into(),
                source: "rtsp://10.0.0.6/live".into(),
                live: true,
                outcome: Probed::Yes(Err(
                    "the camera refused the credentials (401): check `username` and `password`".into()
                )),
            },
        ],
    }
}

pub(super) fn library(path: &str, trouble: Option<&str>) -> libraries::Library {
    let version = path.split_once(".so.").map(|(_, version)| version.to_owned());
    libraries::Library { path: path.into(), version, trouble: trouble.map(str::to_owned) }
}

pub(super) fn port(server: &str, number: u16, trouble: Option<&str>, holder: Option<(String, u32)>) -> Port {
    let address = format!("127.0.0.1:{number}").parse().unwrap();
    Port { server: server.into(), address, trouble: trouble.map(str::to_owned), holder }
}
