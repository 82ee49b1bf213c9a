//! Small traces whose outcome is known by hand. That long ones agree with the formulas is in `tests/queueing.rs`.

use super::*;

fn trace(requests: &[(u64, u64, usize)]) -> Vec<Request> {
    let request = |&(at_ns, demand_ns, connection)| Request { at_ns, demand_ns, connection };
    requests.iter().map(request).collect()
}

/// (number, server, end) of each request, in the order in which they were done.
fn run(system: &System, requests: &[(u64, u64, usize)]) -> Vec<(u64, usize, u64)> {
    let mut done = Vec::new();
    simulate(system, trace(requests), |served| {
        assert_eq!(served.sojourn_ns(), served.end_ns - served.request.at_ns);
        done.push((served.number, served.server, served.end_ns));
    });
    assert_eq!(done.len(), requests.len(), "all are served");
    done
}

fn system(servers: usize, queue: Queue, discipline: Discipline) -> System {
    System { queue, discipline, ..System::ideal(servers) }
}

/// Four requests behind one that keeps the only server busy.
const BEHIND: [(u64, u64, usize); 5] = [(0, 100, 0), (1, 30, 0), (2, 10, 0), (3, 20, 0), (4, 10, 0)];

#[test]
fn each_discipline_has_its_order() {
    let order = |discipline| run(&system(1, Queue::Central, discipline), &BEHIND).into_iter().map(|(who, ..)| who);
    assert!(order(Discipline::Fifo).eq([0, 1, 2, 3, 4]));
    assert!(order(Discipline::Lifo).eq([0, 4, 3, 2, 1]));
    assert!(order(Discipline::ShortestFirst).eq([0, 2, 4, 3, 1]), "of equal ones, who came first");
}

#[test]
fn one_line_serves_all_servers_and_a_line_each_does_not() {
    let requests = [(0, 100, 0), (1, 10, 0), (2, 10, 1), (3, 10, 0)];
    let homes = vec![0, 1];
    let central = run(&system(2, Queue::Central, Discipline::Fifo), &requests);
    assert_eq!(central, [(1, 1, 11), (2, 1, 21), (3, 1, 31), (0, 0, 100)]);
    let partitioned = run(&system(2, Queue::Partitioned(homes.clone()), Discipline::Fifo), &requests);
    assert_eq!(partitioned, [(2, 1, 12), (0, 0, 100), (1, 0, 110), (3, 0, 120)]);
    // Request 1 is taken by the idle neighbour at once, 3 when that one has served its own.
    let stealing = run(&system(2, Queue::Stealing(homes), Discipline::Fifo), &requests);
    assert_eq!(stealing, [(1, 1, 11), (2, 1, 21), (3, 1, 31), (0, 0, 100)]);
}

#[test]
fn processor_sharing_gives_everybody_the_same() {
    // Alone until 10, then half each: 30 of 40 are left, and 20 asked for.
    let alone = [(0, 40, 0), (10, 20, 0)];
    let one = run(&system(1, Queue::Central, Discipline::ProcessorSharing), &alone);
    assert_eq!(one, [(1, 0, 50), (0, 0, 60)]);
    // Two servers: nobody is slowed down until a third comes.
    let three = [(0, 40, 0), (10, 20, 0), (20, 10, 0)];
    let two = run(&system(2, Queue::Central, Discipline::ProcessorSharing), &three);
    assert_eq!(two, [(1, 0, 35), (2, 0, 35), (0, 0, 45)]);
    let apart = system(2, Queue::Partitioned(vec![0, 1]), Discipline::ProcessorSharing);
    assert_eq!(run(&apart, &[(0, 40, 0), (10, 20, 1)]), [(1, 1, 30), (0, 0, 40)]);
}

#[test]
fn under_processor_sharing_the_wait_is_what_others_took() {
    let mut waits = Vec::new();
    let shared = system(1, Queue::Central, Discipline::ProcessorSharing);
    simulate(&shared, trace(&[(0, 40, 0), (10, 20, 0)]), |served| waits.push((served.number, served.wait_ns)));
    assert_eq!(waits, [(1, 20), (0, 20)]);
}

#[test]
fn costs_keep_a_server_busy() {
    let costs = Costs { request_ns: 1, wake_ns: 10, steal_ns: 100 };
    let central = System { costs, ..system(1, Queue::Central, Discipline::Fifo) };
    // The first finds the server asleep, the second does not, the third does again.
    assert_eq!(run(&central, &[(0, 50, 0), (5, 50, 0), (500, 50, 0)]), [(0, 0, 61), (1, 0, 112), (2, 0, 561)]);
    let stealing = System { costs, ..system(2, Queue::Stealing(vec![0, 1]), Discipline::Fifo) };
    assert_eq!(run(&stealing, &[(0, 50, 0), (5, 50, 0)]), [(0, 0, 61), (1, 1, 166)]);
    let shared = System { costs, ..system(1, Queue::Central, Discipline::ProcessorSharing) };
    assert_eq!(run(&shared, &[(0, 50, 0), (500, 50, 0)]), [(0, 0, 61), (1, 0, 561)]);
}

#[test]
fn polls_see_arrivals_at_their_multiples() {
    let polling = Polling { every_ns: Some(50), low_water: None };
    let polled = System { polling, ..System::ideal(1) };
    // What comes at the very moment of a poll is seen by it.
    assert_eq!(
        run(&polled, &[(1, 10, 0), (2, 10, 0), (51, 10, 0), (150, 10, 0)]),
        [(0, 0, 60), (1, 0, 70), (2, 0, 110), (3, 0, 160)]
    );
    let shared = System { polling, ..system(1, Queue::Central, Discipline::ProcessorSharing) };
    assert_eq!(run(&shared, &[(1, 10, 0), (2, 10, 0)]), [(0, 0, 70), (1, 0, 70)]);
}

#[test]
fn behind_a_backlog_arrivals_are_not_seen_until_it_has_gone() {
    let polling = Polling { every_ns: None, low_water: Some(0) };
    let lifo = System { polling, ..system(1, Queue::Central, Discipline::Lifo) };
    // 1 waits, and with it there is a backlog; so 2, 3 and 4 are seen when 1 is taken, and then the last goes first.
    let order = |system: &System| run(system, &BEHIND).into_iter().map(|(who, ..)| who).collect::<Vec<_>>();
    assert_eq!(order(&lifo), [0, 1, 4, 3, 2]);
    // A poll at 50 sees them before.
    let with_bound = System { polling: Polling { every_ns: Some(50), low_water: Some(0) }, ..lifo };
    assert_eq!(order(&with_bound), [0, 4, 3, 2, 1]);
}

#[test]
fn ends_come_before_arrivals_of_the_same_instant() {
    // The second comes as the first ends, finds the server idle and waits for nobody.
    let mut waits = Vec::new();
    simulate(&System::ideal(1), trace(&[(0, 10, 0), (10, 10, 0)]), |served| waits.push(served.wait_ns));
    assert_eq!(waits, [0, 0]);
}

#[test]
fn nothing_is_done_without_requests_and_demands_may_take_no_time() {
    for discipline in [Discipline::Fifo, Discipline::Lifo, Discipline::ShortestFirst, Discipline::ProcessorSharing] {
        let system = system(3, Queue::Central, discipline);
        assert_eq!(run(&system, &[]), []);
        assert_eq!(run(&system, &[(7, 0, 0), (7, 0, 0)]).len(), 2);
    }
}

#[test]
#[should_panic(expected = "request 1 comes before its forerunner")]
fn a_trace_out_of_order_is_refused() {
    run(&System::ideal(1), &[(5, 1, 0), (4, 1, 0)]);
}

#[test]
#[should_panic(expected = "a home is a server")]
fn a_home_that_is_no_server_is_refused() {
    run(&system(2, Queue::Partitioned(vec![2]), Discipline::Fifo), &[]);
}
