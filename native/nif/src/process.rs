//! What this operating system process uses.

/// Memory and threads of the whole VM; `None` where the system does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) rss_bytes: Option<u64>,
    /// Threads of the BEAM and of Rust.
    pub(crate) threads: Option<u64>,
}

/// The usage now.
pub(crate) fn usage() -> Usage {
    parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn parse(status: &str) -> Usage {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Usage { rss_bytes: number("VmRSS:").map(|kib| kib * 1024), threads: number("Threads:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let status = "Name:\tbeam.smp\nVmRSS:\t    2048 kB\nThreads:\t17\n";
        assert_eq!(parse(status), Usage { rss_bytes: Some(2 << 20), threads: Some(17) });
        assert_eq!(parse("VmRSS: much\n"), Usage { rss_bytes: None, threads: None });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_something() {
        let Usage { rss_bytes, threads } = usage();
        assert!(rss_bytes.is_some_and(|bytes| bytes > 1 << 16) && threads.is_some_and(|threads| threads > 0));
    }
}
