/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who owns the VM during an upgrade: source, target, and what the kernel and the daemon may do to them.
 * Decides nothing at run time; tests/model/check lets spin walk every interleaving of it.
 * README.md says what is left out. One atomic block is one step: a process can be killed, stopped or
 * overtaken between any two of them.
 *
 *   source: NONE -> PREPARING -> PREPARED -> F_STOPPED -> F_DRAINED -> F_SAVED -> F_SENT -> CEDED -> EXIT
 *             ^          `----------`----------`-- lease, EOF, death, rollback -'  |         |
 *             |                                     U_CAS ---- CAS lost -----------|--> CEDED|
 *             `- U_RUN <- U_RESET <- U_REAP (the guest may run again) <- U_KILL <--' revoke -'
 *   target: STARTING -> STANDBY -> LOADING -> LOADED -> ACTIVATE -> CAS -> RAN -> START -> RUNNING
 *
 * Words in shared memory: `owner` and `ran`. Both change by compare-and-swap only; the one exception
 * is U_RESET, when the child has been reaped and nobody else maps them.
 *   owner: source -> target | rolling_back          ran: no -> yes (target) | revoked (ceded source)
 *
 * Image: one open file, which the target inherits. Its lock lives until both have closed it, so nobody
 * hands it over; what changes hands is use. The source has drained before LOAD, the target reads
 * metadata after LOAD and writes after `ran`.
 *
 * Every MUT_x breaks one rule and has to be found; every VAR_x is a variant that has to pass.
 */

#ifndef ATTEMPTS
#define ATTEMPTS 2                      /* upgrades of one VM, one after the other */
#endif

mtype:owner_word = { by_source, by_target, rolling_back };
mtype:ran_word   = { no, yes, revoked };
mtype:message    = { msg_standby, msg_loaded, msg_running, msg_load, msg_go };
mtype:source_state = { NONE, PREPARING, PREPARED, F_STOPPED, F_DRAINED, F_SAVED, F_SENT, CEDED,
                       U_CAS, U_KILL, U_REAP, U_RESET, U_RUN, S_EXIT };
mtype:target_state = { ABSENT, STARTING, STANDBY, LOADING, LOADED, ACTIVATE, CAS, RAN, START,
                       RUNNING, T_EXIT };

/* Shared memory of the pair. */
mtype:owner_word owner = by_source;
mtype:ran_word   ran   = no;
bit sealed;                             /* the state memfd is complete and sealed */

/* The baton: each direction, and what each end believes. */
chan to_target = [4] of { mtype:message };
chan to_source = [4] of { mtype:message };
bit s_baton = 1, t_baton;               /* the end is open */
bit s_deaf, t_deaf;                     /* this side sees EOF although the other lives */

/* The kernel's view. */
mtype:source_state s = NONE;
mtype:target_state t = ABSENT;
bit s_alive = 1, t_alive;               /* can still execute; fds close after that, in any order */
bit t_zombie;                           /* waitid() returns it, its pidfd is readable */
bit s_shot, t_shot;                     /* SIGKILL from somebody else is pending */
bit t_killed;                           /* SIGKILL from the source is pending */
bit s_stopped, t_stopped;               /* SIGSTOP */
bit t_undying;                          /* stuck in the kernel: SIGKILL does not end it */
bit s_runs = 1, t_runs;                 /* vCPUs of this process run */
bit s_file = 1, t_file;                 /* holds a descriptor of the image's open file */
bit locked = 1;                         /* that open file has its write lock */
bit s_writes = 1;                       /* writes the image, or holds metadata back: not drained */

/* The daemon. While it is up any command may arrive at any step, late or twice; one that does not fit the
 * state is refused and changes nothing, so it is no step. */
bit daemon_up = 1;
bit one_by_one;                         /* switch driven step by step: the target waits for `go` */
byte attempts;

/* Ghosts: only properties read them. */
bit load_sent, go_sent;
bit guest_moved;                        /* a vCPU of the target of this attempt has run */
#ifdef MUT_WRITE_BEFORE_RAN
bit t_wrote;                            /* the target of this attempt has written the image */
#else
#define t_wrote guest_moved
#endif
bit stale;                              /* the source ran on after the state had been sealed */
bit excused;                            /* SIGKILL hit the only process that had the VM */

#define S_CAN (s_alive && !s_stopped && s != S_EXIT)
#define T_CAN (t_alive && !t_stopped && t != T_EXIT)
/* EOF counts only when everything sent before it has been read. */
#define S_EOF (s_deaf || (!t_baton && len(to_source) == 0))
#define T_EOF ((t_deaf || !s_baton) && len(to_target) == 0)
#define T_DYING (t_shot || t_killed || t == T_EXIT)
#define UNDOABLE (s == PREPARING || s == PREPARED || s == F_STOPPED || s == F_DRAINED || s == F_SAVED || s == F_SENT)

#ifdef MUT_NO_LEASE
#define LEASE (s != F_STOPPED && s != F_DRAINED && s != F_SAVED && s != F_SENT)
#else
#define LEASE true
#endif

#ifdef MUT_NO_REAP
#define REAPED true
#else
#define REAPED t_zombie
#endif

#ifdef MUT_CEDED_EOF
#define CHILD_GONE (t_zombie || S_EOF)
#else
#define CHILD_GONE t_zombie
#endif

#ifdef MUT_IGNORE_RAN
#define MAY_TAKE_BACK true
#else
#define MAY_TAKE_BACK (ran == no)
#endif

/* What lets a ceded source exit. */
#ifdef MUT_EXIT_BEFORE_RAN
#define MAY_EXIT true
#else
#define MAY_EXIT (ran == yes)
#endif

/* What lets a source resume whose child is killed, but not reaped. */
#if defined(MUT_THAW_REVOKED)
#define MAY_THAW true
#elif defined(MUT_REAP_FIRST)
#define MAY_THAW false
#else
#define MAY_THAW (owner == rolling_back)
#endif

/* The target can finish without the source. */
#ifdef VAR_SEAL_COUNTS
#define STATE_COMPLETE sealed
#else
#define STATE_COMPLETE load_sent
#endif
#define WORDS_ALLOW (owner != rolling_back && ran != revoked)
#define T_HEALTHY (t_alive && !T_DYING && STATE_COMPLETE && WORDS_ALLOW)
#define T_NEEDS_NOBODY (load_sent && T_HEALTHY && owner != rolling_back && !t_stopped && (!one_by_one || go_sent || T_EOF))

#define GUEST_RUNS (s_runs || t_runs)
/* The named exceptions to "no endless pause". */
#define EXCUSED ( excused                                           /* the owner was killed */ \
    || (t_undying && T_DYING && owner == by_target)                 /* child with the word cannot die */ \
    || (s_alive && s_stopped && !T_NEEDS_NOBODY)                    /* the owner is stopped */ \
    || (t_alive && t_stopped && (ran == yes || !s_alive)) )         /* the owner is stopped */

/* For a mutation that breaks more than one property: which of them not to look at. */
#ifdef EXCLUSION_ONLY
#define SURVIVAL(x) true
#else
#define SURVIVAL(x) (x)
#endif
#ifdef BOTH_ONLY
#define NOT_ONLY_BOTH(x) true
#else
#define NOT_ONLY_BOTH(x) (x)
#endif

inline check_exclusion() {
    assert(!(s_runs && t_runs));
    assert(!(s_runs && (guest_moved || ran == yes)));
    assert(!t_runs || (ran == yes && owner == by_target));
    assert(NOT_ONLY_BOTH(!(t_runs && stale)));
    assert(NOT_ONLY_BOTH(!(s_runs && t_wrote)));
    assert(NOT_ONLY_BOTH(!(s_writes && t_runs)));
    assert(locked && (!s_runs || s_file) && (!t_runs || t_file));
}

/* The source's vCPUs run again. */
inline resume() {
    s_runs = 1; s_writes = 1; stale = sealed;
    check_exclusion();
    assert(NOT_ONLY_BOTH(!(t_alive && owner == by_target)));      /* it may have touched taps */
}

/* The target makes the image its own: reads metadata anew, writes nothing. */
inline activate() {
    assert(NOT_ONLY_BOTH(!s_writes));
#ifdef MUT_WRITE_BEFORE_RAN
    t_wrote = 1;
#endif
}

/* The target ends by itself; nothing is cleaned up. */
inline give_up() {
#ifdef MUT_UNLOCK_ON_FAIL
    locked = 0;
#endif
    t = T_EXIT
}

inline spawn() {
    assert(!t_alive && !t_runs && !t_file);
    attempts++;
    owner = by_source; ran = no; sealed = 0;          /* a new memfd and a new socketpair each time */
#ifndef MUT_SAME_BATON
    do
    :: len(to_target) > 0 -> to_target?_
    :: len(to_target) == 0 -> break
    od;
    do
    :: len(to_source) > 0 -> to_source?_
    :: len(to_source) == 0 -> break
    od;
#endif
    s_deaf = 0; t_deaf = 0; t_baton = 1;
#ifndef MUT_OPEN_ANEW
    t_file = 1;
#endif
#ifdef MUT_WRITE_BEFORE_RAN
    t_wrote = 0;
#endif
    t_alive = 1; t_zombie = 0; t_shot = 0; t_killed = 0; t_stopped = 0; t_undying = 0;
    one_by_one = 0; load_sent = 0; go_sent = 0; guest_moved = 0; stale = 0;
    t = STARTING;
}

active proctype source_qemu() {
end:
    do
    /* prepare: the guest runs on all the while */
    :: atomic { S_CAN && s == NONE && daemon_up && attempts < ATTEMPTS ->
           spawn(); s = PREPARING }
    :: atomic { S_CAN && s == PREPARING && to_source?[msg_standby] && !s_deaf ->
           to_source?msg_standby; s = PREPARED }

    /* freeze */
    :: atomic { S_CAN && s == PREPARED && daemon_up ->
           s_runs = 0;
           if
           :: one_by_one = 0
           :: one_by_one = 1
           fi;
           s = F_STOPPED }
    :: atomic { S_CAN && (s == F_STOPPED || s == F_DRAINED) ->      /* retry, drain-timeout: not after the seal */
           resume(); s = PREPARED }
#ifdef MUT_LOAD_BEFORE_DRAIN
    :: atomic { S_CAN && s == F_STOPPED && !s_deaf && nfull(to_target) ->
           sealed = 1; load_sent = 1; to_target!msg_load; s = F_SAVED }
    :: atomic { S_CAN && s == F_SAVED -> s_writes = 0; s = F_SENT }
#else
    /* drained, metadata in the page cache; the lock stays */
#ifdef MUT_INACTIVATE
    :: atomic { S_CAN && s == F_STOPPED -> s_writes = 0; locked = 0; s = F_DRAINED }
#else
    :: atomic { S_CAN && s == F_STOPPED -> s_writes = 0; s = F_DRAINED }
#endif
    :: atomic { S_CAN && s == F_DRAINED -> sealed = 1; s = F_SAVED }
    :: atomic { S_CAN && s == F_SAVED && !s_deaf && nfull(to_target) ->
           load_sent = 1; to_target!msg_load; s = F_SENT }
#endif
#ifdef MUT_THAW_KEEPS_CHILD
    :: atomic { S_CAN && (s == F_SAVED || s == F_SENT) && owner == by_source -> resume(); s = PREPARED }
#endif
    :: atomic { S_CAN && s == F_SENT && !s_deaf && to_source?[msg_loaded] -> to_source?msg_loaded }
    :: atomic { S_CAN && s == F_SENT && !s_deaf && daemon_up && one_by_one && !go_sent && nfull(to_target) ->
           go_sent = 1; to_target!msg_go }
    :: atomic { S_CAN && s == F_SENT && !s_deaf && to_source?[msg_running] ->
           to_source?msg_running; assert(owner == by_target); s = CEDED }
    :: atomic { S_CAN && s == F_SENT && owner == by_target -> s = CEDED }

#ifdef MUT_RENEW_FROZEN
    :: atomic { S_CAN && s == F_SENT && daemon_up -> s = F_SENT }
#endif

    /* what ends preparing, prepared and frozen */
    :: atomic { S_CAN && UNDOABLE && LEASE -> s = U_CAS }
    :: atomic { S_CAN && UNDOABLE && daemon_up -> s = U_CAS }
    :: atomic { S_CAN && UNDOABLE && (S_EOF || t_zombie) -> s = U_CAS }
#ifdef MUT_COMMIT_FROZEN
    :: atomic { S_CAN && s == F_SENT && daemon_up -> s = S_EXIT }
#endif

    /* rollback. Who has won `owner` may resume as soon as the kill is sent: the child can never run, and
     * may take for ever to die. The word stays, so that nothing new begins before the reap. */
#ifdef MUT_THAW_BEFORE_CAS
    :: atomic { S_CAN && s == U_CAS && !s_runs && owner == by_source -> resume() }
#endif
#ifdef MUT_THAW_BEFORE_KILL
    :: atomic { S_CAN && s == U_KILL && !s_runs && owner == rolling_back -> resume() }
#endif
#ifdef MUT_SOURCE_STORES
    :: atomic { S_CAN && s == U_CAS && owner == by_source -> s = U_KILL }
    :: atomic { S_CAN && s == U_CAS && owner != by_source -> s = CEDED }
    :: atomic { S_CAN && s == U_KILL -> owner = rolling_back; t_killed = 1; s = U_REAP }
#else
    :: atomic { S_CAN && s == U_CAS ->
           if
           :: owner == by_source -> owner = rolling_back; s = U_KILL
           :: else -> assert(owner == by_target); s = CEDED
           fi }
    :: atomic { S_CAN && s == U_KILL -> t_killed = 1; s = U_REAP }
#endif
#ifdef MUT_RESET_EARLY
    :: atomic { S_CAN && s == U_REAP && owner != by_source -> owner = by_source }
#endif
    :: atomic { S_CAN && s == U_REAP && !s_runs && MAY_THAW -> resume() }
    :: atomic { S_CAN && s == U_REAP && REAPED -> s = U_RESET }
    :: atomic { S_CAN && s == U_RESET ->
#ifndef VAR_NEVER_RESET
           owner = by_source;
#endif
           s = U_RUN }
    :: atomic { S_CAN && s == U_RUN -> resume(); s = NONE }

    /* ceded */
    :: atomic { S_CAN && s == CEDED && CHILD_GONE && MAY_TAKE_BACK -> s = U_RESET }
    :: atomic { S_CAN && s == CEDED && t_zombie && ran == yes -> s = S_EXIT }
    :: atomic { S_CAN && s == CEDED && daemon_up && MAY_EXIT -> s = S_EXIT }
    :: atomic { S_CAN && s == CEDED && MAY_EXIT -> s = S_EXIT }      /* lease in ceded */
#if defined(MUT_REVOKE_BY_KILL)
    :: atomic { S_CAN && s == CEDED && ran == no && !t_killed -> t_killed = 1 }
#elif !defined(MUT_NO_REVOKE)
    :: atomic { S_CAN && s == CEDED && ran == no -> ran = revoked; s = U_KILL }
#endif
    od
}

active proctype target_qemu() {
end:
    do
    :: atomic { T_CAN && t == STARTING ->
           if
           :: to_source!msg_standby; t = STANDBY
           :: give_up()                                 /* cannot build the machine */
           fi }
#ifdef MUT_ACTIVATE_IN_STANDBY
    :: atomic { T_CAN && t == STANDBY -> activate() }
#endif
    :: atomic { T_CAN && t == STANDBY && to_target?[msg_load] ->
           to_target?msg_load; assert(sealed); t = LOADING }
#ifdef MUT_HUP_FIRST
    :: atomic { T_CAN && t == STANDBY && !s_baton -> give_up() }
#endif
    :: atomic { T_CAN && t == STANDBY && T_EOF ->
           if
#ifdef VAR_SEAL_COUNTS
           :: sealed -> t = LOADING
#endif
           :: else -> give_up()
           fi }
    :: atomic { T_CAN && t == LOADING ->
           if
           :: to_source!msg_loaded; t = LOADED
           :: give_up(); excused = excused || !s_alive  /* cannot load the state */
           fi }
    :: atomic { T_CAN && t == LOADED && (!one_by_one || T_EOF) -> t = ACTIVATE }
#ifdef VAR_SEAL_COUNTS
    :: atomic { T_CAN && t == LOADED && to_target?[msg_load] -> to_target?msg_load }
#endif
    :: atomic { T_CAN && t == LOADED && to_target?[msg_go] -> to_target?msg_go; t = ACTIVATE }

    /* takeover: everything that can fail comes before the word. The words hold even if a target goes on
     * after SIGKILL was sent; that it begins no read of the image any more is taken for granted. */
#ifdef MUT_OPEN_ANEW
    :: atomic { T_CAN && !t_killed && t == ACTIVATE && !locked -> t_file = 1; locked = 1; activate(); t = CAS }
#else
    :: atomic { T_CAN && !t_killed && t == ACTIVATE -> activate(); t = CAS }
#endif
#ifdef MUT_EXIT_ON_READ
    :: atomic { T_CAN && t == ACTIVATE && !T_EOF -> give_up() }
#endif                                                  /* else: says so and tries again: lease, or EOF */
#if defined(MUT_TARGET_STORES)
    :: atomic { T_CAN && t == CAS && owner != by_source -> give_up() }
    :: atomic { T_CAN && t == CAS && owner == by_source -> t = RAN }
    :: atomic { T_CAN && t == RAN && owner != by_target -> owner = by_target }
    :: atomic { T_CAN && t == RAN && owner == by_target && ran == no -> ran = yes; t = START }
#else
    :: atomic { T_CAN && t == CAS ->
           if
           :: owner == by_source -> owner = by_target; t = RAN
#if defined(MUT_ADOPT_ON_DEATH)
           :: owner == rolling_back && !s_alive -> owner = by_target; t = RAN    /* pidfd says dead */
           :: owner == rolling_back && s_alive -> give_up()
#elif defined(MUT_ADOPT_ON_EOF)
           :: owner == rolling_back && T_EOF -> owner = by_target; t = RAN
           :: owner == rolling_back && !(T_EOF) -> give_up()
#else
           :: else -> give_up()
#endif
           fi }
#ifdef MUT_RAN_LATE
    :: atomic { T_CAN && t == RAN -> t_runs = 1; guest_moved = 1; assert(!s_runs); t = START }
    :: atomic { T_CAN && t == START -> ran = yes; to_source!msg_running; t = RUNNING }
#else
    :: atomic { T_CAN && t == RAN ->
           if
           :: ran == no -> ran = yes; t = START
           :: else -> assert(ran == revoked); give_up()
           fi }
#endif
#endif
#ifndef MUT_RAN_LATE
    :: atomic { T_CAN && t == START ->
           t_runs = 1; guest_moved = 1; check_exclusion(); to_source!msg_running; t = RUNNING }
#endif
    od
}

/* Ends processes. vCPU threads are gone before any descriptor closes; descriptors close in any order;
 * the zombie comes last. */
active proctype kernel() {
end:
    do
    :: atomic { t_alive && T_DYING && !t_undying ->
           t_alive = 0; t_runs = 0; t_stopped = 0;
           excused = excused || (t_shot && (ran == yes || (s_shot && !s_alive))) }
    :: atomic { !t_alive && t_file -> t_file = 0; locked = locked && s_file }
    :: atomic { !t_alive && t_baton -> t_baton = 0 }
    :: atomic { !t_alive && t != ABSENT && !t_file && !t_baton && !t_zombie -> t_zombie = 1 }
    :: atomic { s_alive && (s_shot || s == S_EXIT) ->
           assert(s != S_EXIT || owner == by_target);
#ifdef MUT_EXIT_CLEANS_UP
           locked = locked && s != S_EXIT;
#endif
           s_alive = 0; s_runs = 0; s_stopped = 0;
           excused = excused || (s_shot && s != S_EXIT && !T_HEALTHY) }
    :: atomic { !s_alive && s_file -> s_file = 0; locked = locked && t_file }
    :: atomic { !s_alive && s_baton -> s_baton = 0 }
    od
}

/* Faults may come at any step, and may never come. The search for endless pauses bounds how often
 * processes are stopped (a pair that is stopped and continued for ever proves nothing). */
#ifdef PAUSE
byte stops;
#define MAY_STOP (stops < 2)
#define COUNT_STOP stops++
#else
#define MAY_STOP true
#define COUNT_STOP skip
#endif

active proctype faults() {
end:
    do
    :: atomic { s_alive && !s_shot -> s_shot = 1 }
    :: atomic { t_alive && !t_shot -> t_shot = 1 }
    :: atomic { s_alive && !s_stopped && MAY_STOP -> s_stopped = 1; COUNT_STOP }
    :: atomic { s_stopped -> s_stopped = 0 }
    :: atomic { t_alive && !t_stopped && MAY_STOP -> t_stopped = 1; COUNT_STOP }
    :: atomic { t_stopped -> t_stopped = 0 }
    :: atomic { t_alive && !t_undying && MAY_STOP -> t_undying = 1; COUNT_STOP }
    :: atomic { t_undying -> t_undying = 0 }
    :: atomic { t_alive && !s_deaf -> s_deaf = 1 }
    :: atomic { t_alive && !t_deaf -> t_deaf = 1 }
    :: break
    od
}

/* Dies and restarts at any step, or stays away for ever. In the search for endless pauses it is always
 * there: a command may come at any step and need not, so its death would add nothing. */
#ifndef PAUSE
active proctype daemon() {
end:
    do
    :: atomic { daemon_up -> daemon_up = 0 }
    :: atomic { !daemon_up -> daemon_up = 1 }
    :: atomic { daemon_up -> daemon_up = 0; break }
    od
}
#endif

/* Somebody else on the host, who takes the image as soon as nobody has it locked. */
active proctype outsider() {
    if
    :: atomic { !locked -> assert(!s_alive && !t_alive); assert(SURVIVAL(excused)) }
    :: skip
    fi
}

#ifdef PAUSE
/* Under weak fairness of every process. With the exclusion asserted above this says also: after a
 * rollback the source runs, and a target that took over runs. */
ltl no_endless_pause { [] (!GUEST_RUNS -> <> (GUEST_RUNS || EXCUSED)) }
#else
/* Nothing can move any more: then one of the two runs, or a named exception holds. */
active proctype judge() {
    timeout -> assert(SURVIVAL(GUEST_RUNS || EXCUSED))
}
#endif
