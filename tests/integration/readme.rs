use gapura::command::settings;
use gapura::config::Config;

use crate::program::{APP_KEY, PASSWORD};

#[test]
fn the_readme_lists_every_setting() {
    let readme = include_str!("../../README.md");
    let table = readme.split("<!-- settings -->\n").nth(1);
    let table = table.and_then(|rest| rest.split("<!-- /settings -->").next());
    assert_eq!(
        table,
        Some(settings::reference().as_str()),
        "run `gapura config --reference`"
    );
}

/// The block of the README that begins with this line.
fn block(first: &str) -> &'static str {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once(first).expect("the block is there");
    rest.split("\n```").next().expect("its end")
}

#[test]
fn the_settings_file_of_the_readme_is_understood() {
    let file = block("# /etc/gapura/gapura.toml, owned by gapura, mode 0600\n");
    let file = file.replace("app_key = \"…\"", &format!("app_key = \"{APP_KEY}\""));
    let file = file.replace("password = \"…\"", &format!("password = \"{PASSWORD}\""));
    let config = Config::from_sources(&file, []).expect("settings that can be right");
    assert!(config.is_https() && config.trusted_proxies.len() == 1);
    let unit = block("# /etc/systemd/system/gapura.service\n");
    assert!(unit.contains("--config /etc/gapura/gapura.toml"));
    assert!(unit.contains("StateDirectory=gapura"));
    assert_eq!(config.data_dir.to_str(), Some("/var/lib/gapura"));
}

/// Without one of these `systemd-analyze security` says that more can be reached than is needed.
#[test]
fn the_unit_of_the_readme_is_hardened() {
    let unit = block("# /etc/systemd/system/gapura.service\n");
    for line in [
        "User=gapura",
        "UMask=0077",
        "StateDirectoryMode=0700",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateMounts=yes",
        "PrivateDevices=yes",
        "PrivateUsers=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "ProcSubset=pid",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
    ] {
        assert!(unit.lines().any(|known| known == line), "{line}");
    }
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let seconds: u32 = stop.expect("a limit").parse().expect("seconds");
    // It lingers for 2 s and drains for 25 (`src/command/server.rs`), and writes down what it has not yet.
    assert!(seconds > 30, "{seconds}");
}

#[test]
fn what_the_container_file_copies_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = block("# Containerfile, beside the sources");
    let copies = file.lines().filter_map(|line| line.strip_prefix("COPY "));
    let sources = copies
        .filter(|rest| !rest.starts_with("--from"))
        .flat_map(|rest| {
            let words: Vec<_> = rest.split(' ').collect();
            words[..words.len() - 1].to_vec()
        });
    let sources: Vec<_> = sources.collect();
    assert!(
        sources.contains(&"src") && sources.contains(&"migrations"),
        "{sources:?}"
    );
    for source in sources {
        assert!(root.join(source).exists(), "{source}");
    }
    // The volume's own mode is the engine's business, and some let others look into it.
    assert!(file.contains("VOLUME /data\n"));
    assert!(file.contains("GAPURA_DATA_DIR=/data/gapura "));
}
