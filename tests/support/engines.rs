//! The engines that a test walks: all of the registry, or the one that `MAITRED_TEST_ENGINE` names.
//!
//! An engine is left out of a test for one of two reasons only: the test needs several clients at once and the engine
//! serves one, or it has a row with its reason in the test file's table [`LeftOut`].

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::any::type_name_of_val;
use std::thread;

use maitred::config::{AtOnce, EngineInfo};
use maitred::engine::{ENGINES, available};

use crate::process::check_all;

/// Narrows all walks to one engine.
const CHOICE: &str = "MAITRED_TEST_ENGINE";

/// An engine that one test is not for.
pub(crate) struct LeftOut {
    pub(crate) test: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) reason: &'static str,
}

/// The engines to test.
pub(crate) fn engines() -> Vec<&'static EngineInfo> {
    let is_available = |engine: &&EngineInfo| match available(engine.name) {
        Ok(()) => true,
        Err(reason) => {
            println!("{} is skipped: {reason}", engine.name);
            false
        }
    };
    let Ok(choice) = std::env::var(CHOICE) else { return ENGINES.iter().filter(is_available).collect() };
    let chosen: Vec<&EngineInfo> = ENGINES.iter().filter(|engine| engine.name == choice).collect();
    assert!(!chosen.is_empty(), "{CHOICE} = {choice} is no engine");
    chosen
}

/// Whether the engine has a use for all of these flags, so that it works in another way under them.
pub(crate) fn has_use_for(engine: &EngineInfo, flags: &[&str]) -> bool {
    let names = flags.iter().filter_map(|flag| flag.strip_prefix("--"));
    names.map(|name| name.replace('-', "_")).all(|name| engine.has_use_for(&name))
}

/// Those of the rows of flags that the engine has a use for.
pub(crate) fn rows_for<'a>(engine: &EngineInfo, rows: &[&'a [&'a str]]) -> Vec<&'a [&'a str]> {
    rows.iter().copied().filter(|flags| has_use_for(engine, flags)).collect()
}

/// The engines that the test of this name is for; says of each other one why not.
pub(crate) fn fitting(test: &str, needs: AtOnce, left_out: &[LeftOut]) -> Vec<&'static EngineInfo> {
    let is_for = |engine: &&EngineInfo| {
        let reason = match left_out.iter().find(|row| (row.test, row.engine) == (test, engine.name)) {
            Some(row) => row.reason,
            None if engine.at_once < needs => "it serves one client at a time",
            None => return true,
        };
        println!("{test} is not for {}: {reason}", engine.name);
        false
    };
    engines().into_iter().filter(is_for).collect()
}

/// Runs `test` for every engine that it is for, a few side by side, and says on which one it failed. To be called from
/// the test's own function, by whose name the table knows it.
pub(crate) fn for_each_engine(needs: AtOnce, left_out: &[LeftOut], test: impl Fn(&'static EngineInfo) + Sync) {
    let path = type_name_of_val(&test);
    let name = path.trim_end_matches("::{{closure}}").rsplit("::").next().expect("a path has an end");
    check_all(fitting(name, needs, left_out), |engine| {
        let _told = Told(format!("on the engine {}", engine.name));
        test(engine);
    });
}

/// Checks that the rows of a table name tests of this text and engines that there are, and say why.
pub(crate) fn check_left_out(left_out: &[LeftOut], text: &str) {
    for LeftOut { test, engine, reason } in left_out {
        assert!(
            text.contains(&format!("fn {test}()")) || text.contains(&format!("    {test}: ")),
            "{test} is no test here"
        );
        assert!(ENGINES.iter().any(|known| known.name == *engine), "{engine} is no engine");
        assert!(!reason.is_empty(), "why is {engine} left out of {test}?");
    }
}

/// Says where it was if the test panics.
pub(crate) struct Told(pub(crate) String);

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
