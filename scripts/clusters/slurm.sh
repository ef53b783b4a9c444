# Slurm on one machine: two nodes, with or without accounting. Sourced by scripts/clusters.sh.

port=${PORT:-17000}  # and the three after it
started=()  # process ids, in the order of starting

background() {  # its process id is then in $last
    setsid "$@" >>"$S/log/started.log" 2>&1 &
    last=$!
    started+=("$last")
}

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
AccountingStoragePort=$((port + 3))
AccountingStoragePass=$S/munge/socket"
    cat >"$S/slurm.conf" <<CONF
ClusterName=probe
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
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
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=n1 Name=gpu File=$S/dev/gpu[0-1]" >"$S/gres.conf"
    export SLURM_CONF=$S/slurm.conf
    await test -S "$S/munge/socket"
    [[ $2 == none ]] || start_accounting
    background slurmctld -D -f "$SLURM_CONF"
    controller=$last
    await scontrol ping
    start_node n1
    start_node n2
    await sh -c 'test "$(sinfo -h -N -t idle | wc -l)" = 2'
}

start_node() {  # $node: process id of the last one
    background slurmd -D -N "$1" -f "$SLURM_CONF"
    node=$last
}

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
DbdPort=$((port + 3))
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
    scancel --user=root 2>/dev/null || true
    for _ in $(seq 60); do [[ -n $(squeue -h 2>/dev/null) ]] || break; sleep .5; done
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do kill "${started[index]}" 2>/dev/null || true; done
    wait
    started=()
}

# ---- the matrix

T=(--config-dir=own data=line model=mlp histograms=false pictures=false evaluate_every=0 device=cpu allow_targets=[faults]
    loss=faulty)

sweep() {  # $1: name, then overrides; its words go to NAME.said, its exit code is returned
    local name=$1
    shift
    timeout 900 "$python" "$here/train.py" -m "${T[@]}" name="$name" "$@" >>"$name.said" 2>&1
}

on_slurm() { sweep "$@" hydra/launcher=submitit_cluster hydra.launcher.mem_gb=1 hydra.launcher.cpus_per_task=1; }

faults() { echo "$1" >faults.new && mv faults.new faults.json; }

job_of() { sed -n 's/.*"job": "\([0-9_]*\)".*/\1/p' runs/"$1"/*job="$2",*/job.json; }  # of a sweep's run

has_begun() { grep -qs '"running"' runs/"$1"/*job="$2",*/result.json; }

facts() { "$python" "$here/scripts/clusters/facts.py" "$@"; }  # about sweeps

try_slurm() {  # PARTS, ACCOUNTING and CASES choose some of it
    for part in ${PARTS:-matrices many_jobs many_submissions}; do "$part"; done
}

prepare() {  # $1: a folder for runs below sweeps/, where jobs can misbehave
    mkdir -p "$folder/sweeps/$1"
    cd "$folder/sweeps/$1"
    PYTHONPATH=$here/tests "$python" -c "from support.sweeps import write_faults; write_faults('.')"
    export PYTHONPATH=$PWD FAULTS=$PWD/faults.json
}

matrices() {
    for accounting in ${ACCOUNTING:-slurmdbd none}; do
        start_slurm "$folder/$accounting" $accounting 1001
        prepare $accounting
        title=$([[ $accounting == none ]] && echo "no accounting" || echo accounting)
        matrix
        end_slurm
    done
}

matrix() {
    sweep whole "loss.job=range(1,7)" epochs=300 sweep.n_jobs=2
    for case in ${CASES:-eight left_and_attached stopped node time_limit pair early refused resources no_answer}; do
        faults '{}'
        "$case" >case.out || echo "FAILED, see $PWD" >>case.out  # not in $(...): what it starts is to be ended
        row "$title: ${case//_/ }" "$(cat case.out)"
    done
}

eight() {  # one raises, one diverges, one is killed, one cancelled, one requeued, one meets its time limit
    sweep local "loss.job=range(1,9)" epochs=400 sweep.n_jobs=2 || true
    faults '{"1": "raise", "2": "diverge", "3": "kill", "4": "slow", "5": "slow", "6": "slow"}'
    on_slurm eight "loss.job=range(1,9)" epochs=400 hydra.launcher.timeout_min=2 hydra.launcher.signal_delay_s=60 \
        hydra.launcher.max_num_timeout=0 &
    local driver=$! code=0
    for job in 4 5; do await_long has_begun eight $job; done
    scancel "$(job_of eight 4)"
    scontrol requeue "$(job_of eight 5)"
    sleep 15  # it saves, goes on, and is killed after KillWait; Slurm starts it again after two minutes
    faults '{"1": "raise", "2": "diverge", "3": "kill", "4": "slow", "6": "slow"}'
    wait $driver || code=$?
    local first
    first="exit $code; $(facts causes eight local), the requeued one resumed $(grep -c 'resumed at' runs/eight/*job=5,*/train.log) times"
    faults '{}'
    code=0
    on_slurm eight "loss.job=range(1,9)" epochs=400 || code=$?
    echo "$first. Again: exit $code, $(facts submitted eight last), $(facts equal eight local)"
}

left_and_attached() {  # submitted without waiting; a driver killed; the same command
    faults '{"4": "slow", "5": "slow"}'
    on_slurm left "loss.job=range(1,7)" epochs=300 sweep.wait=false
    local said code=0
    said="left: exit $?, $(facts counts left)"
    on_slurm left "loss.job=range(1,7)" epochs=300 &
    local driver=$!
    sleep 10
    kill -KILL "$(python_of $driver)"
    wait $driver 2>/dev/null || true
    faults '{}'
    on_slurm left "loss.job=range(1,7)" epochs=300 || code=$?
    echo "$said; driver killed; again: exit $code, $(facts submitted left last), $(facts equal left whole)"
}

stopped() {  # the driver gets SIGINT; then runs.py cancel
    faults '{"1": "slow", "2": "slow", "3": "slow", "4": "slow", "5": "slow", "6": "slow"}'
    on_slurm stopped "loss.job=range(1,7)" epochs=300 &
    local driver=$! code=0
    for job in 1 2 3 4; do await_long has_begun stopped $job; done
    kill -INT "$(python_of $driver)"
    wait $driver || code=$?
    local said
    said="Ctrl-C: exit $code, $(facts statuses stopped), $(squeue -h | wc -l) in the queue"
    on_slurm stopped "loss.job=range(1,7)" epochs=300 sweep.wait=false
    await_long facts is_running stopped 4
    "$python" "$here/scripts/runs.py" cancel runs/stopped >>stopped.said
    await_long sh -c 'test -z "$(squeue -h)"'
    faults '{}'
    said+="; runs.py cancel: $(facts counts stopped)"
    on_slurm stopped "loss.job=range(1,7)" epochs=300 || said+="; again: exit $?"
    echo "$said; again: $(facts equal stopped whole)"
}

node() {  # slurmd, the jobs and their steps of a node are killed
    faults '{"1": "slow", "2": "slow", "3": "slow", "4": "slow"}'
    on_slurm node "loss.job=range(1,5)" epochs=300 &
    local driver=$! code=0
    for job in 1 2 3 4; do await_long has_begun node $job; done
    local jobs
    jobs=$(squeue -h --array --nodelist=n2 --Format=JobID:16)
    kill -KILL "$node"
    for job in $jobs; do
        for process in $(processes_of "$job"); do kill -KILL "$process" 2>/dev/null || true; done
    done
    faults '{}'
    wait $driver || code=$?
    echo "exit $code, $(facts equal node whole), $(grep -l 'resumed at' runs/node/*/train.log | wc -l) resumed"
    start_node n2
    scontrol update nodename=n2 state=resume 2>/dev/null || true
    await sh -c 'test "$(sinfo -h -N -t idle | wc -l)" = 2'
}

processes_of() {  # $1: a job's number; those of the job and those that watch its steps
    local process
    for process in /proc/[0-9]*; do
        if grep -qzx "SLURM_JOB_ID=$1" "$process/environ" || grep -aq "^slurmstepd: \[$1\." "$process/cmdline"; then
            echo "${process#/proc/}"
        fi
    done 2>/dev/null
}

python_of() {  # $1: process id of a sweep in the background
    local process=$1 child
    while [[ $(cat "/proc/$process/comm") != python* ]] && child=$(pgrep -P "$process" | head -1) && [[ -n $child ]]; do
        process=$child
    done
    echo "$process"
}

time_limit() {  # several sessions, each cut short by the limit
    faults '{"1": "slow"}'
    on_slurm limit loss.job=1 epochs=300 hydra.launcher.timeout_min=2 hydra.launcher.signal_delay_s=80 &
    local driver=$! code=0
    await_long sh -c "grep -qs 'resumed at' runs/limit/*/train.log"
    faults '{}'
    wait $driver || code=$?
    echo "exit $code, $(facts equal limit whole), resumed $(grep -c 'resumed at' runs/limit/*/train.log) times"
}

pair() {  # SIGTERM and USR2 within a step, as submitit sends them
    faults '{"1": "slow"}'
    on_slurm pair loss.job=1 epochs=300 &
    local driver=$! code=0
    await_long has_begun pair 1
    scancel --signal=TERM "$(job_of pair 1)"
    scancel --signal=USR2 "$(job_of pair 1)"
    faults '{}'
    wait $driver || code=$?
    echo "exit $code, $(facts equal pair whole), resumed $(grep -c 'resumed at' runs/pair/*/train.log) times"
}

early() {  # a job killed while it imports, and one whose Python is not there
    on_slurm early loss.job=1,2 epochs=300 &
    local driver=$! code=0
    await_long facts is_running early 2
    scancel --signal=KILL --full "$(job_of early 2)"
    wait $driver || code=$?
    echo "exit $code, $(facts causes early)"
}

refused() {
    on_slurm refused loss.job=1 hydra.launcher.partition=nowhere || true
    tail -1 refused.said
}

resources() {
    on_slurm resources "sweep.arms={small: {penalty: none}, large: {penalty: l2, resources.gpus: 1, resources.mem_gb: 2}}" \
        loss.job=1,2 epochs=5 || echo "exit $?"
    for job in $(sed -n 's/.*"job": "\([0-9_]*\)".*/\1/p' runs/resources/*/job.json); do
        scontrol show job "$job" | grep -oE '(TRES|TresPerNode)=.*'
    done | sort | uniq -c | tr -s ' \n' ' '
    scontrol show job "$(job_of resources 1 | head -1)" | grep -o 'JobName=.*'
}

no_answer() {  # slurmctld away for a while
    faults '{"1": "slow"}'
    on_slurm away loss.job=1,2 epochs=300 &
    local driver=$! code=0
    await_long has_begun away 1
    kill "$controller"
    sleep 20
    background slurmctld -D -f "$SLURM_CONF"
    controller=$last
    faults '{}'
    wait $driver || code=$?
    echo "exit $code, $(facts equal away whole)"
}

many_jobs() {
    start_slurm "$folder/arrays" none 31
    prepare arrays
    on_slurm many "seed=range(100)" epochs=3 || true
    row "100 jobs, MaxArraySize=31" "$(facts statuses many), $(facts times many), arrays $(ls -d runs/many/.submitit/* | sed 's/.*\///; s/_.*//' | sort | uniq -c | tr -s '\n ' ' ')"
    end_slurm
}

many_submissions() {  # no Slurm: sbatch gives out numbers, squeue knows of no job
    mkdir -p "$folder/stub"
    prepare stub
    printf '#!/bin/sh\necho Submitted batch job $(date +%%s%%N)\n' >"$folder/stub/sbatch"
    printf '#!/bin/sh\nprintf "ClusterName = stub\\nMaxArraySize = 1001\\n"\n' >"$folder/stub/scontrol"
    printf '#!/bin/sh\n' | tee "$folder/stub/squeue" >"$folder/stub/srun"
    chmod +x "$folder"/stub/*
    local found=
    for number in 375 750 1500; do
        local before
        before=$(hundredths)
        PATH=$folder/stub:$PATH on_slurm "many$number" "seed=range($number)" sweep.wait=false
        found+="$number: $((($(hundredths) - before) / 100)) s, "
        found+="$(cat runs/many$number/.submitit/*/*.pkl | wc -c) bytes; "
    done
    row "submission of so many jobs, processor time (sbatch a stub)" "$found"
}

hundredths() { cut -d ')' -f 2 </proc/$$/stat | awk '{print $14 + $15}'; }  # of seconds that our children have computed

await_long() { for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep .5; done; echo "waited in vain: $*" >&2; return 1; }
