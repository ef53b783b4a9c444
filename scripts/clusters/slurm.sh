# Slurm on one machine: two nodes, with or without accounting. Sourced by scripts/clusters.sh.

started=()  # process ids, in the order of starting

background() { setsid "$@" >>"$S/log/started.log" 2>&1 & started+=($!); }

await() { for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep .3; done; echo "waited in vain: $*" >&2; exit 1; }

start_slurm() {  # $1: a folder, $2: slurmdbd or none, $3: MaxArraySize
    S=$1
    mkdir -p "$S"/{munge,state,spool-n1,spool-n2,log,dev}
    dd if=/dev/urandom of="$S/munge/munge.key" bs=1 count=1024 status=none
    chmod 400 "$S/munge/munge.key"
    for number in 0 1; do mknod "$S/dev/gpu$number" c 1 3 2>/dev/null || true; done
    background munged --foreground --force --socket="$S/munge/socket" --key-file="$S/munge/munge.key" \
        --pid-file="$S/munge/pid" --log-file="$S/munge/log" --seed-file="$S/munge/seed"
    local host storage=
    host=$(hostname -s)
    [[ $2 == none ]] || storage="AccountingStorageHost=localhost
AccountingStoragePort=16819
AccountingStoragePass=$S/munge/socket"
    cat >"$S/slurm.conf" <<CONF
ClusterName=probe
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$S/munge/socket
CredType=cred/munge
StateSaveLocation=$S/state
SlurmdSpoolDir=$S/spool-%n
SlurmctldPidFile=$S/slurmctld.pid
SlurmdPidFile=$S/slurmd-%n.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdTimeout=15
SlurmctldTimeout=15
InactiveLimit=0
KillWait=10
MinJobAge=300
MaxArraySize=$3
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
RebootProgram=/bin/true
AccountingStorageType=accounting_storage/$2
$storage
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=n1 Name=gpu File=$S/dev/gpu[0-1]" >"$S/gres.conf"
    export SLURM_CONF=$S/slurm.conf
    await test -S "$S/munge/socket"
    [[ $2 == none ]] || start_accounting
    background slurmctld -D -f "$SLURM_CONF"
    await scontrol ping
    start_node n1
    start_node n2
    await sh -c 'test "$(sinfo -h -N -t idle | wc -l)" = 2'
}

start_node() { background slurmd -D -N "$1" -f "$SLURM_CONF"; }

start_accounting() {
    mkdir -p "$S/mysql"
    chown mysql "$S/mysql"
    mysql_install_db --no-defaults --user=mysql --datadir="$S/mysql/data" --skip-test-db >"$S/log/mysql.log" 2>&1
    background mariadbd --no-defaults --user=mysql --datadir="$S/mysql/data" --socket="$S/mysql/sock" --port=13306 \
        --bind-address=127.0.0.1 --pid-file="$S/mysql/pid" --innodb-buffer-pool-size=128M
    await mysql --no-defaults -S "$S/mysql/sock" -u root -e "select 1"
    mysql --no-defaults -S "$S/mysql/sock" -u root -e "create database slurm_acct_db;
        create user slurm@'127.0.0.1' identified by 'loopback'; create user slurm@localhost identified by 'loopback';
        grant all on slurm_acct_db.* to slurm@'127.0.0.1'; grant all on slurm_acct_db.* to slurm@localhost;"
    cat >"$S/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$S/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
LogFile=$S/log/slurmdbd.log
PidFile=$S/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=loopback
StorageLoc=slurm_acct_db
CONF
    chmod 600 "$S/slurmdbd.conf"
    background slurmdbd -D
    await sacctmgr -i list cluster
    await sacctmgr -i add cluster probe
}

end_slurm() {
    [[ -z ${SLURM_CONF:-} ]] || scancel --user=root 2>/dev/null || true
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do kill "${started[index]}" 2>/dev/null || true; done
    wait
    started=()
}
