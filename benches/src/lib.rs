//! Shared by the benchmarks: thread CPU time, interleaved rounds, tables.
//!
//! Everything is measured as a ratio inside one run. Contenders take turns, round by round, so
//! that a machine that slows down slows all of them down; every round gives one ratio to the
//! baseline's time in the same round, and the median of those is what is printed.

pub mod apps;
#[cfg(feature = "servers")]
pub mod business;
pub mod by_hand;
pub mod callgrind;
#[cfg(feature = "servers")]
pub mod crowd;
pub mod http;
pub mod open_load;
#[cfg(feature = "peers")]
pub mod peers;
#[cfg(feature = "servers")]
pub mod pgbench;
#[cfg(feature = "servers")]
pub mod redis;
pub mod socket;
pub mod store;
pub mod waiting;

use std::future::Future;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

/// The CPU time that the calling thread has used.
pub fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

/// The CPU time that all threads of this process have used.
pub fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

#[allow(clippy::cast_sign_loss, reason = "CPU time is never negative")]
fn cpu(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(
        now.tv_sec as u64,
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// The CPU time since `started`, divided over so many operations, in nanoseconds.
pub fn per_operation(started: Duration, operations: usize) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let operations = operations as f64;
    thread_cpu().saturating_sub(started).as_secs_f64() * 1e9 / operations
}

/// Whether `--quick` was given: fewer rounds, for a look.
pub fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// One of two numbers, the second under `--quick`.
pub fn scaled(full: usize, quick_one: usize) -> usize {
    if quick() { quick_one } else { full }
}

/// A runtime that keeps everything of a request on the calling thread.
///
/// # Panics
/// When the system gives no runtime.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

/// Runs a future as a task, as a server runs a connection, and not as the runtime's root.
///
/// # Panics
/// When the future does.
pub fn on_a_task<T: Send + 'static>(
    runtime: &Runtime,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime
        .block_on(runtime.spawn(future))
        .expect("the task does not panic")
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This contender is what others are compared with.
    Baseline,
    /// At most so many times the baseline.
    AtMost(f64),
    /// At least so many times the baseline's operations per second.
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

impl Target {
    /// What is printed of it, and whether a figure meets it.
    pub fn judge(self, figure: f64) -> (String, &'static str) {
        match self {
            Self::Baseline => ("= 1".to_owned(), ""),
            Self::None => (String::new(), ""),
            Self::AtMost(most) if figure <= most => (format!("≤ {most}"), "met"),
            Self::AtMost(most) => (format!("≤ {most}"), "**not met**"),
            Self::AtLeast(least) if figure >= least => (format!("≥ {least}"), "met"),
            Self::AtLeast(least) => (format!("≥ {least}"), "**not met**"),
        }
    }
}

/// Something that is measured against something else, in `N` respects at once.
pub struct Contender<'a, const N: usize = 1> {
    name: String,
    targets: [Target; N],
    round: Box<dyn FnMut() -> [f64; N] + 'a>,
}

impl<'a, const N: usize> Contender<'a, N> {
    /// `round` runs many operations and returns the nanoseconds of one, in each respect.
    pub fn new(
        name: impl Into<String>,
        target: Target,
        round: impl FnMut() -> [f64; N] + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            targets: [target; N],
            round: Box::new(round),
        }
    }

    /// The same with another target in one respect.
    pub fn but(mut self, respect: usize, target: Target) -> Self {
        self.targets[respect] = target;
        self
    }

    fn is_baseline(&self, respect: usize) -> bool {
        matches!(self.targets[respect], Target::Baseline)
    }
}

/// The medians of one contender.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The contender's name.
    pub name: String,
    /// What it should be.
    pub target: Target,
    /// The median time of one operation.
    pub nanoseconds: f64,
    /// The median of the ratios to the baseline's time in the same round.
    pub ratio: f64,
}

/// The text after `--only`: of the contenders, the baseline and those whose names contain it
/// are run, for a profile of them.
fn only() -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != "--only")
        .nth(1)
}

/// Lets the contenders take turns; each round begins with another one. One round more is run
/// first, and thrown away.
///
/// # Panics
/// When no contender is the baseline in some respect.
pub fn interleave<const N: usize>(
    rounds: usize,
    mut contenders: Vec<Contender<'_, N>>,
) -> [Vec<Figure>; N] {
    if let Some(only) = only() {
        contenders.retain(|contender| {
            (0..N).any(|respect| contender.is_baseline(respect)) || contender.name.contains(&only)
        });
    }
    let count = contenders.len();
    let mut times = vec![Vec::with_capacity(rounds); count];
    for round in 0..=rounds {
        for turn in 0..count {
            let index = (turn + round) % count;
            let time = (contenders[index].round)();
            if round > 0 {
                times[index].push(time);
            }
        }
    }
    std::array::from_fn(|respect| {
        let baseline = contenders
            .iter()
            .position(|contender| contender.is_baseline(respect))
            .expect("one contender is the baseline");
        contenders
            .iter()
            .zip(&times)
            .map(|(contender, own)| {
                let times_and_bases = own.iter().zip(&times[baseline]);
                let ratios = times_and_bases.map(|(time, base)| time[respect] / base[respect]);
                Figure {
                    name: contender.name.clone(),
                    target: contender.targets[respect],
                    ratio: median(ratios.collect()),
                    nanoseconds: median(own.iter().map(|time| time[respect]).collect()),
                }
            })
            .collect()
    })
}

/// The middle one.
///
/// # Panics
/// When there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints figures as a Markdown table. `unit` says what one operation is, `scale` how many
/// nanoseconds one of its units has.
pub fn print(title: &str, unit: &str, scale: f64, figures: &[Figure]) {
    println!("\n### {title}\n");
    println!("| | {unit} | ratio | target | |");
    println!("|---|---:|---:|---:|---|");
    for figure in figures {
        let (target, verdict) = figure.target.judge(figure.ratio);
        println!(
            "| {} | {:.2} | {:.2} | {target} | {verdict} |",
            figure.name,
            figure.nanoseconds / scale,
            figure.ratio,
        );
    }
}

/// Prints figures as a Markdown table of operations per second, the ratio turned over: more is
/// better.
pub fn print_rates(title: &str, figures: &[Figure]) {
    println!("\n### {title}\n");
    println!("| | per second | ratio | target | |");
    println!("|---|---:|---:|---:|---|");
    for figure in figures {
        let ratio = figure.ratio.recip();
        let (target, verdict) = figure.target.judge(ratio);
        println!(
            "| {} | {:.0} | {ratio:.2} | {target} | {verdict} |",
            figure.name,
            1e9 / figure.nanoseconds,
        );
    }
}

/// A generator of numbers that look random and are the same in every run.
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Starts one.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Iterator for Sequence {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ (z >> 31))
    }
}
