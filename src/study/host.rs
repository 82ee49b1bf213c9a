//! [`Host`]: the machine that a study ran on, written beside its rows, because figures of another are no figures of
//! this.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::clock::wall_time;
use crate::net::os;

/// The name of the file in a study's directory.
pub const FILE: &str = "host.json";

/// A machine, as far as it tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Names this format.
    pub schema: &'static str,
    /// The version of this program.
    pub maitred: &'static str,
    /// Whether it was built with optimisation.
    pub optimised: bool,
    /// The model of the processors.
    pub model: Option<String>,
    /// Those that the study may use.
    pub processors: Vec<usize>,
    /// Whether this is a virtual machine.
    pub is_virtual: Option<bool>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// How the processors' frequency is chosen.
    pub governor: Option<String>,
    /// How TCP answers congestion.
    pub congestion_control: Option<String>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// When the study began: the one field that differs between two studies of one machine.
    pub recorded_unix_s: u64,
}

impl Host {
    /// This machine, now.
    pub fn read() -> Host {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
            line.map(|(_, value)| value.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib =
            field(&meminfo, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let now = wall_time().duration_since(std::time::UNIX_EPOCH);
        Host {
            schema: "maitred.host/1",
            maitred: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            model: field(&cpuinfo, "model name"),
            processors: os::processors(),
            is_virtual: field(&cpuinfo, "flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            kernel: line_of("/proc/sys/kernel/osrelease"),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            congestion_control: line_of("/proc/sys/net/ipv4/tcp_congestion_control"),
            memory_bytes: memory_kib.map(|kib| kib << 10),
            recorded_unix_s: now.map_or(0, |since| since.as_secs()),
        }
    }

    /// The JSON text, with a line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and names serialise") + "\n"
    }
}

fn line_of(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_tells_the_same_of_itself_each_time_but_for_the_time() {
        let (one, other) = (Host::read(), Host::read());
        assert_eq!(Host { recorded_unix_s: 0, ..one.clone() }, Host { recorded_unix_s: 0, ..other });
        assert!(one.kernel.is_some() && one.memory_bytes > Some(1 << 20) && !one.processors.is_empty(), "{one:?}");
        let json: serde_json::Value = serde_json::from_str(&one.to_json()).expect("it is JSON");
        assert_eq!(json["schema"], "maitred.host/1");
    }
}
