//! `ocelli config` as a person or a unit file calls it: exit codes and text.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::ocelli;

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `ocelli config ARGS` in `folder` without any variable that configures it.
fn config_in(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = ocelli();
    command.arg("config").args(args).current_dir(folder).env_remove("CREDENTIALS_DIRECTORY");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OCELLI__") {
            command.env_remove(name);
        }
    }
    let Output { status, stdout, stderr } = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn repository() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// A folder with one `ocelli.yaml`.
fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ocelli.yaml"), text).unwrap();
    folder
}

#[test]
fn the_examples_are_right_and_name_the_schema() {
    let mut seen = 0;
    let page = std::fs::read_to_string(repository().join("configs/README.md")).unwrap();
    for entry in std::fs::read_dir(repository().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("- [{name}]({name}): ")), "configs/README.md does not name {name}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some("# yaml-language-server: $schema=schema.json"), "{}", path.display());
        let run = config_in(&repository(), &["check", "-c", path.to_str().unwrap()], &[]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        assert!(run.out.starts_with(&format!("{}: ok (", path.display())), "{}", run.out);
        assert_eq!(run.err, "", "an example has no warnings");
    }
    let listed = page.lines().filter(|line| line.starts_with("- [") && line.contains(".yaml](")).count();
    assert_eq!(seen, listed, "examples in the folder and on the page");
    assert!(seen >= 6, "{seen} examples");
}

/// Lines that an example shows but leaves out, because they name a file that is not everywhere.
#[test]
fn lines_that_examples_leave_out_are_right_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name).to_str().unwrap().to_owned()
    };
    for (example, key, line, there) in [
        ("tls-broker.yaml", "ca_file", "  # ca_file: /etc/ocelli/broker-ca.pem\n", file("ca.pem", b"")),
        ("jetson-tensorrt.yaml", "file", "  # file: /var/lib/ocelli/models/yolo.onnx\n", file("yolo.onnx", b"")),
        (
            "jetson-tensorrt.yaml",
            "ort_library",
            "  # ort_library: /opt/onnxruntime/lib/libonnxruntime.so\n",
            file("ort.so", b""),
        ),
    ] {
        let text = std::fs::read_to_string(repository().join("configs").join(example)).unwrap();
        assert_eq!(text.matches(line).count(), 1, "{example}: {line}");
        let path = file(example, text.replace(line, &format!("  {key}: {there}\n")).as_bytes());
        let run = config_in(folder.path(), &["check", "-c", &path], &[]);
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{example}");
    }
}

/// What the example tells people to paste into Home Assistant, held to the topics and messages that Ocelli sends.
#[test]
fn the_sensors_for_home_assistant_fit_the_messages() {
    let example = std::fs::read_to_string(repository().join("configs/home-assistant.yaml")).unwrap();
    let pasted: String = example
        .split("# For configuration.yaml:\n#\n")
        .nth(1)
        .unwrap()
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap()))
        .collect();
    let pasted: serde_json::Value = serde_yaml::from_str(&pasted).unwrap();
    let golden = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(repository().join("tests/golden").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let mut sensors = 0;
    for sensor in pasted["mqtt"].as_object().unwrap().values().flat_map(|list| list.as_array().unwrap()) {
        sensors += 1;
        assert_eq!(sensor["availability"][0]["topic"], "ocelli/hall/available", "{sensor}");
        let message = match sensor["state_topic"].as_str().unwrap() {
            "ocelli/hall/door/frame" => golden("frame.json"),
            "ocelli/hall/door/status" => golden("status.json"),
            "ocelli/hall/stats" => golden("stats.json"),
            other => panic!("nothing is sent to {other}"),
        };
        let template = sensor["value_template"].as_str().unwrap();
        let path = template.split("value_json.").nth(1).expect("a template reads the message");
        let path = path.split(|c: char| c != '.' && c != '_' && !c.is_ascii_alphanumeric()).next().unwrap();
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = message.pointer(&pointer).unwrap_or_else(|| panic!("{path} is not in {message}"));
        if value.is_array() {
            assert!(template.contains("'label'") && value[0]["label"].is_string(), "{template}");
        }
    }
    assert!(sensors >= 5, "{sensors}");
}

#[test]
fn errors_come_together_with_exit_code_78() {
    let folder = folder("mqtt: mqtt:/x\ncameras:\n  Gate: rtsp://h/1\n  yard: {url: rtsp://h, treshold: 1}\n");
    let run = config_in(folder.path(), &["check"], &[]);
    assert_eq!((run.code, run.out.as_str()), (Some(78), ""));
    for expected in [
        "ocelli: error: 3 errors in the configuration",
        "ocelli.yaml:1:7: `mqtt.url` must be",
        "ocelli.yaml:3:3: `Gate` cannot be a camera's name",
        "ocelli.yaml:4:25: unknown key `treshold` in `cameras.yard`",
        "    4 |   yard: {url: rtsp://h, treshold: 1}",
        "      |                         ^^^^^^^^",
    ] {
        assert!(run.err.contains(expected), "{expected}\n{}", run.err);
    }
}

#[test]
fn files_that_are_no_configuration_are_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("binary.yaml"), [0xff, 0xfe, 0, 1]).unwrap();
    std::fs::write(path("big.yaml"), vec![b'#'; 2 << 20]).unwrap();
    std::fs::write(path("empty.yaml"), "").unwrap();
    std::fs::write(path("broken.yaml"), "cameras: {gate: [}\n").unwrap();
    for (name, expected) in [
        ("absent.yaml", "does not exist"),
        ("", "is a folder"),
        ("binary.yaml", "is not UTF-8 text"),
        ("big.yaml", "is larger than 1 MiB"),
        ("empty.yaml", "there is no camera"),
        ("broken.yaml", "broken.yaml:1:17: not valid YAML"),
    ] {
        let run = config_in(folder.path(), &["check", "-c", &path(name)], &[]);
        assert_eq!(run.code, Some(78), "{name}: {}", run.err);
        assert!(run.err.contains(expected), "{name}: {}", run.err);
    }
    if !Path::new("/etc/ocelli/ocelli.yaml").exists() {
        let run = config_in(folder.path(), &["check"], &[]);
        assert_eq!(run.code, Some(78));
        assert!(
            run.err.contains("no configuration file: looked for ocelli.yaml and /etc/ocelli/ocelli.yaml"),
            "{}",
            run.err
        );
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    assert_eq!(config_in(&repository(), &["check", "--nonsense"], &[]).code, Some(2));
    assert_eq!(config_in(&repository(), &["nonsense"], &[]).code, Some(2));
}

#[test]
fn files_variables_and_arguments_are_laid_on_each_other() {
    let folder = folder("mqtt: mqtt://one\ncameras: {gate: rtsp://h/1}\n");
    std::fs::write(folder.path().join("site.yaml"), "mqtt: {prefix: site}\n").unwrap();
    let args =
        ["show", "-c", "ocelli.yaml", "-c", "site.yaml", "--set", "mqtt.queue=7", "--set", "cameras.yard=rtsp://h/2"];
    let run = config_in(folder.path(), &args, &[("OCELLI__NODE", "n7"), ("OCELLI__MQTT__QUEUE", "6")]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(
        run.out,
        "node: n7\nmqtt:\n  url: \"mqtt://one\"\n  prefix: site\n  queue: 7\ncameras:\n  gate:\n    url: \"rtsp://h/1\"\n  yard:\n    url: \"rtsp://h/2\"\n"
    );
    let run = config_in(folder.path(), &["check", "-c", "ocelli.yaml", "-c", "site.yaml"], &[]);
    assert_eq!(run.out, "ocelli.yaml + site.yaml: ok (1 camera)\n");
    let run = config_in(folder.path(), &["check", "--set", "mqtt.ulr=x"], &[]);
    assert!(run.err.contains("--set mqtt.ulr:1:6: unknown key `ulr` in `mqtt`"), "{}", run.err);
}

#[test]
fn secrets_come_from_credentials_and_stay_secret() {
    let folder = folder(
        "mqtt: {url: mqtts://h, username: u, password: \"${mqtt_password}\"}\ncameras: {gate: 'rtsp://u:S3CRET2@h'}\n",
    );
    let run = config_in(folder.path(), &["check"], &[]);
    assert_eq!(run.code, Some(78));
    assert!(run.err.contains("ocelli.yaml:1:48: `${mqtt_password}` is not defined"), "{}", run.err);
    std::fs::write(folder.path().join("mqtt_password"), "S3CRET\n").unwrap();
    let credentials = folder.path().to_str().unwrap();
    for args in [&["check"][..], &["show"], &["show", "--effective"]] {
        let run = config_in(folder.path(), args, &[("CREDENTIALS_DIRECTORY", credentials)]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        assert!(!format!("{}{}", run.out, run.err).contains("S3CRET"), "{}{}", run.out, run.err);
        if args == ["check"] {
            assert!(
                run.err.contains("warning: ocelli.yaml:2:17: `cameras.gate.url` holds a user or password"),
                "{}",
                run.err
            );
        } else {
            assert!(run.out.contains("password: \"***\""), "{}", run.out);
        }
    }
}

#[test]
fn what_show_prints_is_a_configuration() {
    let folder = folder("cameras: {gate: rtsp://h/1, clip: a.mp4}\n");
    std::fs::write(folder.path().join("a.mp4"), "").unwrap();
    let shown = config_in(folder.path(), &["show", "--effective"], &[]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    assert!(shown.out.contains("\n      threshold: 0.25\n"), "{}", shown.out);
    std::fs::write(folder.path().join("shown.yaml"), &shown.out).unwrap();
    let again = config_in(folder.path(), &["show", "--effective", "-c", "shown.yaml"], &[]);
    assert_eq!((again.code, again.out), (Some(0), shown.out), "{}", again.err);
}

#[test]
fn the_committed_schema_and_reference_are_what_the_program_prints() {
    let committed = |name: &str| std::fs::read_to_string(repository().join("configs").join(name)).unwrap();
    let schema = config_in(&repository(), &["schema"], &[]);
    assert!(schema.out == committed("schema.json"), "run `ocelli config schema > configs/schema.json`");
    let value: serde_json::Value = serde_json::from_str(&schema.out).unwrap();
    assert_eq!(value["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let page = config_in(&repository(), &["schema", "--markdown"], &[]);
    assert!(page.out == committed("README.md"), "run `ocelli config schema --markdown > configs/README.md`");
}
