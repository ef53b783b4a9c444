"""From a config to a trained model, and from a grid of configs to a table. A map; imports go from the bottom up.

The story of one run, in this folder:

    run            one run, from a checked config to its result: build, train, evaluate, record, save
    results        runs as tables of pandas, a run as a trained network
    api            `train` and `sweep` from Python: the same road, in a process of its own
    console        lines and the progress bar, what a user sees of a run
    outcome        how a run ends: exit codes and last sentences
    signals        Ctrl-C, SIGTERM and a launcher's signals
    system         cores and memory of this machine

Rooms beside it:

    training/      a model is trained; it knows no disk and no Hydra
        loop           the training loop, on one page
        term           a penalty in the objective: its coefficient, and the steps at which it counts
        build          config -> the components of a run
        instantiate    a class and its options -> an object, the options checked against the signature
        compatibility  do the components fit together
        optimizers     those that torch lacks
        schedule       learning rates by the epoch or the step
        metrics        what is measured of a model in training, and which epoch was best
        seeds          a stream of random numbers for each purpose
        faults         what an error says of its cause: memory, a place in a user's own code
    config/        from the command line to a checked config; never imports torch
        command_line   the words of a command -> one checked command, or all mistakes at once
        words          what was typed: text is quoted for Hydra's grammar, what it cannot read gets a sentence
        overrides      options against the config: is there such a choice, such a key
        compose        overrides -> config, by Hydra; its private names
        check          everything that is wrong with a config
        rules          what the value of each key may be
        signature      options against the arguments of a constructor
        allowlist      which classes may be built
        hydra_node     what may stand in Hydra's own node: launcher, sweeper, mode
        conf_files     the only reader of the files under conf/
        objective      which metrics may be minimised
        help           --help
        tree           walk through nested dicts and lists
        text           near names, and lines cut to a width
    storage/       what a run leaves on the disk
        directory      a run and its directory: result, config
        lock           one process at a time in a directory, also on file systems that machines share
        identity       the run's id, and the name of its directory; what does not count for them
        status         the states of a run
        slurm          which job of Slurm's has a run, and how that stands in the queue
        members        which runs belong to a sweep, and what each is there for
        checkpoint     states that are whole and verified, or not used
        weights        of a trained network: their digest, and files of them for other programs and for other runs
        atomic         files written whole or not at all
        provenance     versions, commit, device
    evaluation/    what a trained model is worth
        evaluate       losses and errors
        plan           after which epochs a run is evaluated, and on what
        predictor      a trained network with its normalisation, for raw inputs
        probes         numbers on the function: Jacobian, zeros, margins, slopes
        layers         strength of activations and gradients, layer by layer
        penalties      value of a penalty that a run may be trained without
        robustness     errors under noise, shifts, rotations, attacks
    recording/     what is recorded while a run trains
        recorder       TensorBoard and metrics.csv
        events         TensorBoard's event files
        pictures       curve, confusions, worst mistakes, decision regions
    summary/       many runs in one table and one picture
        report         all of it
        groups         runs of the same setting
        rows           a row for each group: mean and spread, labels, the best one
        best           one rule for the best of rows, trials and arms
        labels         short names of rows and folders
        settings       which keys tell the groups apart: the table's first columns
        runs           what can be read of a run's directory
        table          the table on the terminal, as Markdown and as CSV
        columns        its columns, and which fit into a width
        compare        differences to a baseline: pairs, intervals, Holm's correction
        answer         the same in words
        figure, axis   the picture of a metric against what was swept
        forest         the picture of the differences
        trials         the picture of the trials, each arm over its weight
        curves         any metric against the epoch
    stack/         many runs that differ in numbers alone, trained as one stack of models
        grouping       which runs of a sweep make a stack: a fixed rule
        session        one session of a stack: the sessions of its runs
        loop           the loop of one model, for K models
        components     the components of K models as those of one
        layers         one module that computes K models
        optimizer      torch's optimizers on stacked parameters
    sweep/         many runs, each a job
        report         a sweep from its command to its exit code: run, statuses, table
        grid           what a command sweeps: its jobs checked, and the grid
        arms           several grids in one sweep: weights tried, then compared on fresh seeds
        search         a search: trials proposed, run as jobs, taken over where their process has died
        space          what a search varies, and what it proposes
        pruning        which of them are stopped early
        study          where its trials are stored: journal, SQLite, PostgreSQL
        pool           jobs in processes of their own, some at a time
        cluster        jobs on a cluster, whatever its engine: submitted, waited for, their ends recorded
        slurm          the engine for Slurm: arrays of jobs, found again by the same command
        ray_engine     jobs as tasks of Ray
        job            one job, in the process that a launcher has given it
        overview       what a user sees of a sweep
        board          a sweep in TensorBoard: means over seeds, a row for each group of what differs
"""

import os


def let_idle_threads_sleep() -> None:
    """Have torch's idle threads sleep after some microseconds, unless the user has said how they wait.

    On Linux torch has them by libgomp, where they spin for milliseconds: beside other work they take the cores from
    those that work, and training falls to a tenth or less (docs/performance.md). libgomp reads the variable when torch
    is loaded, so each process of ours imports this package before. Other systems' OpenMP does not know it.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"


let_idle_threads_sleep()
