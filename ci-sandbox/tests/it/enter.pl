# Runs a program in the namespaces of a process: what it is told comes on standard input, so that no argument of it is
# among this one's.
$^F = 2;
my @told = do { local $/; split /\0/, <STDIN>, -1 };
my ($pid, $holes, $folder, $filter, $input, $count) = splice @told, 0, 6;
pop @told;
my @variables = splice @told, 0, $count;
my %has = map { $_ => 1 } split /,/, $holes;
# A session of its own, so that nobody's terminal is the program's.
syscall(112) > 0 or die "setsid: $!";
$SIG{TERM} = 'IGNORE';
# Whoever started the tests may have left something open, which is not the sandbox's hole.
syscall(436, 3, 0xffffffff, 4) == 0 or die "close_range: $!";
if ($has{'inherited descriptor'}) {
    open our $leak, '<', '/' or die;
    fcntl($leak, 2, 0) or die;
}
open STDIN, '<', $input or die;
my @kinds = grep { !($_ eq 'pid' && $has{'host processes'}) } qw(net ipc uts cgroup pid mnt);
my @files = map { open my $file, '<', "/proc/$pid/ns/$_" or die "$_: $!"; $file } @kinds;
syscall(308, fileno($_), 0) == 0 or die "setns: $!" for @files;
@files = ();
my ($master, $terminal);
if ($has{terminal}) {
    open $master, '+<', '/dev/ptmx' or die "ptmx: $!";
    my $number = pack 'i', 0;
    ioctl($master, 0x40045431, $number) or die "TIOCSPTLCK: $!";
    ioctl($master, 0x80045430, $number) or die "TIOCGPTN: $!";
    $terminal = '/dev/pts/' . unpack 'i', $number;
}
my $child = fork // die;
if ($child == 0) {
    if ($has{terminal}) {
        close $master;
        syscall(112) > 0 or die "setsid: $!";
        open my $slave, '+<', $terminal or die "$terminal: $!";
        open STDIN, '<&', $slave and open STDOUT, '>&', $slave and open STDERR, '>&', $slave or die;
        close $slave;
    }
    $SIG{TERM} = 'DEFAULT';
    my $none = pack('QQ', 0, 0);
    syscall(302, 0, 4, $none, 0) unless $has{'core dumps'};
    unless ($has{'privileges'}) {
        syscall(157, 24, $_, 0, 0, 0) for 0 .. 63;
        syscall(116, 0, 0);
        syscall(119, 1000, 1000, 1000) == 0 or die;
        syscall(117, 1000, 1000, 1000) == 0 or die;
    }
    chdir $folder or exit 127;
    syscall(157, 38, 1, 0, 0, 0) unless $has{'privileges'};
    unless ($has{'no filter'}) {
        my $code = pack 'H*', $filter;
        my $program = pack 'S x6 P', length($code) / 8, $code;
        syscall(317, 1, 0, $program) == 0 or die "seccomp: $!";
    }
    %ENV = () unless $has{'environment'};
    for (@variables) { my ($name, $value) = split /=/, $_, 2; $ENV{$name} = $value }
    exec { $told[0] } @told;
    exit 127;
}
if ($has{terminal}) {
    # It ends with an error when nobody has the terminal any more.
    while (sysread $master, my $said, 4096) { syswrite STDOUT, $said }
}
# Perl takes a traced child that stops for one that has ended: waitid(2) says which it is (siginfo: code and status).
my $info = "\0" x 128;
my ($code, $status);
do {
    syscall(247, 1, $child, $info, 4, 0) == 0 or die "waitid: $!";
    ($code, $status) = unpack 'x8 l x12 l', $info;
} while ($code >= 4 && !$has{'careless waiting'});
exit $status if $code == 1;
exit 0 if $code >= 4;
$SIG{TERM} = 'DEFAULT';
kill $status, $$;
sleep 1;
