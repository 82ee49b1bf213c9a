//! One process of the tree: what it has used so far, and where its time goes when it ends.
//!
//! INVARIANT counted-once: a nanosecond of CPU time is in one member's `own` until that member is seen to be gone, and
//! from then on in `children` of its parent or in `Books::ended`. It holds because a parent's `stat` is read before
//! its children are looked at: a child that was seen is in none of the collected time that was read before.
//! INVARIANT never-too-much: every number is what was used at least; an ended process counts as it was last seen, until
//! its parent's collected time says more.

use std::collections::HashMap;
use std::ops::AddAssign;

use nix::time::ClockId;

use super::files::{Files, Run, Stat, clock_ns, cpu_clock, numbers_in};

/// Sums over all threads and processes that were ever seen, and what is left of those that are gone.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Books {
    /// What the threads did, as they were last seen: time ready to run without a processor,
    pub(super) run_delay_ns: u64,
    /// times that they were given one,
    pub(super) slices: u64,
    /// and switches.
    pub(super) voluntary: u64,
    pub(super) involuntary: u64,
    /// CPU time of processes that ended and have no parent in the tree.
    pub(super) ended: Time,
    /// Processes that ended with nobody to collect their time, and were seen too seldom to know it.
    pub(super) missed: u64,
    pub(super) processes_started: u64,
    pub(super) processes_ended: u64,
    pub(super) threads_started: u64,
    pub(super) threads_ended: u64,
}

/// What a round of looks works with.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) files: Files,
    pub(super) books: Books,
    /// Pids of children that were found, known or not.
    pub(super) children: Vec<u32>,
}

/// CPU time, and which part of it no thread was seen to use: of threads that were never seen, and of those that ended,
/// what they used since they were last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) used_ns: u64,
    pub(super) unseen_ns: u64,
}

impl AddAssign for Time {
    fn add_assign(&mut self, more: Time) {
        // Saturating, here and below: what `/proc` says is input, and may be odd.
        self.used_ns = self.used_ns.saturating_add(more.used_ns);
        self.unseen_ns = self.unseen_ns.saturating_add(more.unseen_ns);
    }
}

/// Of an ended process that nobody collects, time since it was last seen is missing. Seen this often, that is a
/// twentieth at most, and others like it have hardly come and gone unseen.
const ENOUGH_LOOKS: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// Ended; its clock still counts it.
    Zombie,
    /// Its pid is free, or another's.
    Gone,
}

/// A process, known by pid and start.
pub(super) struct Member {
    pub(super) pid: u32,
    start: u64,
    clock: ClockId,
    pub(super) parent: u32,
    pub(super) life: Life,
    /// CPU time of its threads, ended ones included.
    own: Time,
    /// The part of it that they were seen to use.
    seen_ns: u64,
    /// CPU time of its ended children and of theirs; at least that.
    children: Time,
    /// What `stat` says of the same: late, in steps, and silent about children that nobody waited for.
    collected_ns: u64,
    /// The part of `children` that will never be in `collected_ns`.
    uncollected_ns: u64,
    ignores_children: bool,
    threads: HashMap<u32, Thread>,
    looks: u32,
    /// It was seen as a zombie: nothing is missing of its own.
    is_final: bool,
}

/// As it was last seen.
#[derive(Default)]
struct Thread {
    run: Run,
    voluntary: u64,
    involuntary: u64,
    /// The last look that found it.
    look: u32,
}

impl Member {
    /// A process that was not known yet.
    pub(super) fn new(pid: u32, stat: &Stat) -> Member {
        Member {
            pid,
            start: stat.start,
            clock: cpu_clock(pid),
            parent: stat.parent,
            life: Life::Running,
            own: Time::default(),
            seen_ns: 0,
            children: Time::default(),
            collected_ns: 0,
            uncollected_ns: 0,
            ignores_children: false,
            threads: HashMap::new(),
            looks: 0,
            is_final: false,
        }
    }

    pub(super) fn is(&self, pid: u32, start: u64) -> bool {
        (self.pid, self.start) == (pid, start)
    }

    /// CPU time of the process and of its ended descendants.
    pub(super) fn total(&self) -> Time {
        let mut total = self.own;
        total += self.children;
        total
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Looks at the process and its threads, and notes the children of those that have run. `thorough`: of all.
    pub(super) fn look(&mut self, thorough: bool, notes: &mut Notes) {
        self.looks += 1;
        let Ok(own_ns) = clock_ns(self.clock) else { return self.end(Life::Gone, &mut notes.books) };
        // Nothing of it has run, so that nothing of it has changed: one call for an idle process.
        if own_ns == self.own.used_ns && self.looks > 1 && !thorough {
            return;
        }
        let stat = match notes.files.stat(self.pid) {
            Ok(stat) if stat.start == self.start => stat,
            _ => return self.end(Life::Gone, &mut notes.books),
        };
        self.own.used_ns = self.own.used_ns.max(own_ns);
        self.collected_ns = self.collected_ns.max(stat.collected_ns);
        self.parent = stat.parent;
        if self.life == Life::Running {
            self.look_at_threads(&stat, thorough, notes);
            // The clock was read before the threads were: while none ends, this is nothing.
            self.own.unseen_ns = self.own.unseen_ns.max(own_ns.saturating_sub(self.seen_ns));
            if stat.is_zombie && stat.threads <= 1 {
                self.end(Life::Zombie, &mut notes.books);
            }
        }
    }

    fn look_at_threads(&mut self, stat: &Stat, thorough: bool, notes: &mut Notes) {
        if stat.threads == 1 {
            self.look_at_thread(self.pid, thorough, notes);
        } else {
            // Fails if the process has ended by now; it will be found gone.
            let Ok(threads) = numbers_in(&format!("/proc/{}/task", self.pid)) else { return };
            for thread in threads {
                self.look_at_thread(thread, thorough, notes);
            }
        }
        let before = self.threads.len();
        self.threads.retain(|_, thread| thread.look == self.looks);
        notes.books.threads_ended += (before - self.threads.len()) as u64;
    }

    fn look_at_thread(&mut self, id: u32, thorough: bool, notes: &mut Notes) {
        let Notes { files, books, children } = notes;
        // A kernel may have no such file; a thread that has ended has no `status` either.
        let run = files.run(self.pid, id).unwrap_or_default();
        let known = self.threads.get_mut(&id);
        if let Some(thread) = known
            && thread.run == run
            && run.slices > 0
            && !thorough
            // The first one inherits the children of threads that end, without having run.
            && id != self.pid
        {
            thread.look = self.looks;
            return;
        }
        let Ok(status) = files.status(self.pid, id) else { return };
        let mut before = self.threads.remove(&id);
        if before.as_ref().is_some_and(|before| run.run_ns < before.run.run_ns) {
            // Another thread of the same number; or one that has taken over the process with a new program.
            before = None;
            books.threads_ended += 1;
        }
        books.threads_started += u64::from(before.is_none());
        let before = before.unwrap_or_default();
        add(&mut self.seen_ns, run.run_ns, before.run.run_ns);
        add(&mut books.run_delay_ns, run.delay_ns, before.run.delay_ns);
        add(&mut books.slices, run.slices, before.run.slices);
        add(&mut books.voluntary, status.voluntary, before.voluntary);
        add(&mut books.involuntary, status.involuntary, before.involuntary);
        self.ignores_children = status.ignores_children;
        let (voluntary, involuntary) = (status.voluntary, status.involuntary);
        self.threads.insert(id, Thread { run, voluntary, involuntary, look: self.looks });
        // Fails if it has ended by now, or the kernel has no such file.
        let _ = files.children(self.pid, id, children);
    }

    fn end(&mut self, life: Life, books: &mut Books) {
        if self.life == Life::Running {
            books.processes_ended += 1;
            books.threads_ended += self.threads.len() as u64;
            self.threads.clear();
        }
        self.is_final |= life == Life::Zombie;
        self.life = life;
    }
}

/// Adds what a count has grown by.
fn add(sum: &mut u64, now: u64, before: u64) {
    *sum = sum.saturating_add(now.saturating_sub(before));
}

/// Takes the gone ones out and hands their time on. Children stand behind their parents; `places` says where a pid is.
pub(super) fn settle(members: &mut Vec<Member>, places: &mut HashMap<u32, usize>, books: &mut Books) {
    for at in (0..members.len()).rev() {
        let (before, rest) = members.split_at_mut(at);
        let member = &mut rest[0];
        // Only now that what its ended children were seen to use is in: time both seen and collected counts once, and
        // steps of 10 ms do not add up.
        let collected_ns = member.collected_ns.saturating_add(member.uncollected_ns);
        let unseen_ns = collected_ns.saturating_sub(member.children.used_ns);
        member.children += Time { used_ns: unseen_ns, unseen_ns };
        if member.life != Life::Gone {
            continue;
        }
        let total = member.total();
        let parent = places.get(&member.parent).and_then(|&at| before.get_mut(at));
        let is_collected = parent.as_ref().is_some_and(|parent| !parent.ignores_children);
        match parent {
            Some(parent) => {
                parent.children += total;
                let uncollected_ns = if is_collected { member.uncollected_ns } else { total.used_ns };
                parent.uncollected_ns = parent.uncollected_ns.saturating_add(uncollected_ns);
            }
            None => books.ended += total,
        }
        books.missed += u64::from(!is_collected && !member.is_final && member.looks < ENOUGH_LOOKS);
    }
    let before = members.len();
    members.retain(|member| member.life != Life::Gone);
    if members.len() < before {
        *places = members.iter().enumerate().map(|(at, member)| (member.pid, at)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::process::files::NS_PER_STEP;

    const MS: u64 = 1_000_000;

    /// Processes that have used 100 ms each, all of it seen; each a child of the one before it.
    fn family<const N: usize>() -> ([Member; N], Books) {
        let member = |at| {
            let at = u32::try_from(at).expect("a small number");
            let stat = Stat { is_zombie: false, parent: 9 + at, collected_ns: 0, threads: 1, start: 1 };
            let own = Time { used_ns: 100 * MS, unseen_ns: 0 };
            Member { own, looks: ENOUGH_LOOKS, ..Member::new(10 + at, &stat) }
        };
        (std::array::from_fn(member), Books::default())
    }

    fn settled<const N: usize>(family: [Member; N], books: &mut Books) -> Vec<Member> {
        let mut members = Vec::from(family);
        let mut places = members.iter().enumerate().map(|(at, member)| (member.pid, at)).collect();
        settle(&mut members, &mut places, books);
        assert_eq!(places.len(), members.len());
        assert!(members.iter().enumerate().all(|(at, member)| places[&member.pid] == at));
        members
    }

    fn ms(time: Time) -> (u64, u64) {
        (time.used_ns / MS, time.unseen_ns / MS)
    }

    #[test]
    fn time_goes_to_the_parent_once() {
        let ([root, mut child], mut books) = family();
        child.life = Life::Gone;
        let mut members = settled([root, child], &mut books);
        assert_eq!(ms(members[0].total()), (200, 0), "as it was seen, until the parent says more");
        // The steps that the parent shows are behind, then level, then ahead by what nobody saw.
        for (collected_ms, expected) in [(90, (200, 0)), (100, (200, 0)), (130, (230, 30)), (130, (230, 30))] {
            members[0].collected_ns = collected_ms * MS;
            settle(&mut members, &mut HashMap::from([(10, 0)]), &mut books);
            assert_eq!(ms(members[0].total()), expected, "{collected_ms} ms");
        }
        assert_eq!((ms(books.ended), books.missed), ((0, 0), 0));
    }

    #[test]
    fn steps_of_time_do_not_add_up() {
        let ([mut root], mut books) = family();
        let mut members = Vec::new();
        for round in 1..=1000 {
            let ([_, mut child], _) = family();
            child.own.used_ns = 3 * MS;
            child.life = Life::Gone;
            root.collected_ns = round * 3 * MS / NS_PER_STEP * NS_PER_STEP;
            members = settled([root, child], &mut books);
            root = members.pop().expect("it is alive");
        }
        members.push(root);
        assert_eq!(ms(members[0].total()), (100 + 3000, 0));
    }

    #[test]
    fn a_family_that_ends_at_once_is_inherited() {
        let ([root, mut child, mut grandchild, mut last], mut books) = family();
        child.life = Life::Gone;
        child.collected_ns = 250 * MS;
        grandchild.life = Life::Gone;
        last.life = Life::Gone;
        let members = settled([root, child, grandchild, last], &mut books);
        assert_eq!(members.len(), 1);
        assert_eq!(ms(members[0].total()), (450, 50), "50 ms of what the child collected were never seen");
    }

    #[test]
    fn time_that_nobody_collects_hides_none_that_is_collected_later() {
        let ([root, mut child, mut grandchild], mut books) = family();
        child.ignores_children = true;
        grandchild.life = Life::Gone;
        let [root, mut child] = settled([root, child, grandchild], &mut books).try_into().ok().expect("two live");
        assert_eq!(ms(child.total()), (200, 0));
        child.life = Life::Gone;
        let mut members = settled([root, child], &mut books);
        assert_eq!(ms(members[0].total()), (300, 0));
        // Of the child, 100 ms arrive; of another that was never seen, 70 ms.
        members[0].collected_ns = 170 * MS;
        settle(&mut members, &mut HashMap::from([(10, 0)]), &mut books);
        assert_eq!((ms(members[0].total()), books.missed), ((370, 70), 0));
    }

    #[test]
    fn numbers_that_cannot_be_are_survived() {
        let ([mut root, mut child], mut books) = family();
        root.collected_ns = u64::MAX;
        child.collected_ns = u64::MAX;
        child.uncollected_ns = u64::MAX;
        child.life = Life::Gone;
        let members = settled([root, child], &mut books);
        assert_eq!(members[0].total().used_ns, u64::MAX);
    }

    #[test]
    fn what_may_be_missing_is_noted() {
        let gone = |looks, is_final, ignores_children| {
            let ([mut root, mut child], mut books) = family();
            root.ignores_children = ignores_children;
            child = Member { looks, is_final, life: Life::Gone, ..child };
            settled([root, child], &mut books);
            books.missed
        };
        assert_eq!(gone(1, false, false), 0, "its parent has collected it");
        assert_eq!(gone(1, false, true), 1);
        assert_eq!(gone(1, true, true), 0, "it was seen as a zombie");
        assert_eq!(gone(ENOUGH_LOOKS, false, true), 0, "it was seen often");
        let ([root, mut orphan], mut books) = family();
        orphan = Member { looks: 1, life: Life::Gone, parent: 1, ..orphan };
        settled([root, orphan], &mut books);
        assert_eq!((books.missed, ms(books.ended)), (1, (100, 0)));
    }
}
