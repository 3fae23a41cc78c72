//! What is being done, in words.

/// Declares the stages with the words that an error uses for them.
macro_rules! stages {
    ($($name:ident = $words:literal,)*) => {
        /// What was being done when something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Stage { $(#[doc = $words] $name,)* }

        impl Stage {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            pub(super) fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// The stage in words, for "could not ...".
            pub(crate) fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

stages! {
    Configuration = "read the sandbox's configuration",
    MemoryFiles = "make the memory file system",
    OpenBind = "open a read-only view of a host path",
    JoinNetwork = "enter the network of the sandbox that it is for",
    Clone = "make the namespaces",
    MapIds = "map the user and group ids",
    JoinGroup = "put the sandbox into its control group",
    WatchMemory = "watch the memory of the sandbox's control group",
    Identity = "take the ids of the sandbox",
    Root = "change to the sandbox's root",
    Mount = "attach a path to the sandbox's root",
    Devices = "attach the devices",
    Proc = "mount the process file system",
    Network = "bring the loopback interface up",
    Sockets = "open a socket in the sandbox's network",
    Landlock = "restrict devices and processes to the sandbox's own",
    Privileges = "drop privileges",
    Request = "read a request",
    Table = "start one more process: too many run at once",
    Fork = "start a process",
    Limits = "set the limits of a process",
    User = "become the job's user",
    Secrets = "write a secret into its file",
    Terminal = "open a terminal",
    Directory = "enter the working directory",
    Execute = "execute the program",
    OpenTarget = "open the path in the sandbox",
    ReadStream = "read the archive",
    WriteStream = "write the archive",
    BadArchive = "understand the archive",
    UnsafeName = "accept a name in the archive: it leaves the directory",
    SpecialFile = "unpack a device, pipe or socket",
    TooDeep = "handle so deep a path",
    ReadFile = "read a file of the sandbox",
    WriteFile = "write a file of the sandbox",
}
