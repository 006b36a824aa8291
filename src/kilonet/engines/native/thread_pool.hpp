// A pool of threads that run the tasks of a loop. A thread that waits spins for a moment before it sleeps. An exception in a
// task is thrown again to the caller of the loop, once all threads are done; the tasks not begun by then are left out.
//
// A thread takes every n-th task, the same ones in each loop, and then what others have not begun. Each loop runs them in the
// opposite order of the one before. So a task often finds what it read and wrote in the loop before in its core's cache.
//
// Where another process has a core, a thread that has begun a task waits for its turn there, and all others wait for that
// thread. When that happens often, the next loops do with one thread less.
#pragma once
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

class ThreadPool {
 public:
  // Throws std::system_error if the system has no more threads.
  explicit ThreadPool(int count) : active_(count) {
    try {
      for (int thread = 1; thread < count; thread++) workers_.emplace_back([this, thread] { run_worker(thread); });
    } catch (...) {
      close();
      throw;
    }
  }

  ~ThreadPool() { close(); }

  int count() const { return (int)workers_.size() + 1; }

  // Calls work(task, thread) for every task below `tasks` and waits for all of them.
  void parallel_for(int tasks, const std::function<void(int, int)>& work) {
    if (tasks > capacity_) {
      capacity_ = 0;
      begun_ = std::make_unique<std::atomic<bool>[]>(tasks);
      capacity_ = tasks;
    }
    for (int task = 0; task < tasks; task++) begun_[task].store(false, std::memory_order_relaxed);
    work_ = &work;
    task_count_ = tasks;
    reversed_ = !reversed_;
    failure_ = nullptr;
    failed_ = false;
    busy_ = active_ - 1;
    start_round();
    const auto begin = Clock::now();
    const int run = run_tasks(0, active_);
    const auto end = Clock::now();
    for (int left; (left = wait_for(busy_, [](int value) { return value == 0; })) != 0;) busy_.wait(left);
    adapt(run > 0 && Clock::now() - end > shortest_stall + 3 * (end - begin) / run);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  // Longer than Python takes between two steps, and than the difference between two tasks.
  static constexpr std::chrono::microseconds longest_spin{1000}, shortest_stall{200};
  // Loops, of which a training step has some twenty. A quiet machine stalls once in a thousand, one with a busy process 6 to 60
  // times in a window.
  static constexpr int window = 128, most_stalls = 5, loops_with_less = 2048;
  // The bits of a round that say how many threads take part in it; a recipe has at most 1,024.
  static constexpr unsigned participants = 0x7ff;

  // A thread that takes no part may be late to see a round, and then sees a later one.
  void start_round() {
    round_ = (round_ & ~participants) + (participants + 1) + active_;
    round_.notify_all();
  }

  // Changes the number of threads that take part: one less for some loops after too many stalls in a window. The caller has
  // stalled if it waited for much longer than a task takes.
  void adapt(bool stalled) {
    stalls_ += stalled;
    if (stalls_ > most_stalls && active_ > 1) {
      set_active(active_ - 1);
    } else if (++loops_ % window == 0) {
      stalls_ = 0;
      if (active_ < count() && loops_ >= loops_with_less) set_active(active_ + 1);
    }
  }

  void set_active(int threads) {
    active_ = threads;
    active_.notify_all();
    loops_ = stalls_ = 0;
  }

  void close() {
    closing_ = true;
    set_active(count());
    start_round();
    for (std::thread& worker : workers_) worker.join();
  }

  // A training step has some twenty short loops, and waking a sleeping thread takes as long as some of them.
  template <class Value, class Condition>
  static Value wait_for(std::atomic<Value>& value, Condition holds) {
    const auto end = Clock::now() + longest_spin;
    for (;;) {
      for (int i = 0; i < 64; i++) {
        const Value now = value.load();
        if (holds(now)) return now;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      if (Clock::now() > end) return value.load();
    }
  }

  // Runs tasks as one of so many threads, and returns how many it has run.
  int run_tasks(int thread, int threads) {
    int run = 0;
    try {
      for (const bool own : {true, false})
        for (int i = 0; i < task_count_; i++) {
          const int task = reversed_ ? task_count_ - 1 - i : i;
          if ((task % threads == thread) == own) run += run_task(task, thread);
        }
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
    return run;
  }

  // Runs a task unless another thread has begun it, and returns whether it has.
  bool run_task(int task, int thread) {
    if (failed_ || begun_[task].load(std::memory_order_relaxed) || begun_[task].exchange(true)) return false;
    (*work_)(task, thread);
    return true;
  }

  void run_worker(int thread) {
    for (unsigned seen = 0;;) {
      for (int active; (active = active_) <= thread;) active_.wait(active);
      unsigned now;
      while ((now = wait_for(round_, [&](unsigned round) { return round != seen; })) == seen) round_.wait(seen);
      seen = now;
      if (closing_) return;
      const int threads = now & participants;
      if (thread >= threads) continue;
      run_tasks(thread, threads);
      if (busy_.fetch_sub(1) == 1) busy_.notify_all();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<int> active_;     // threads that take part in a loop; the others sleep until it changes
  int loops_ = 0, stalls_ = 0;  // loops since that number changed; stalls in the window
  const std::function<void(int, int)>* work_ = nullptr;
  int task_count_ = 0, capacity_ = 0;
  bool reversed_ = false;
  std::unique_ptr<std::atomic<bool>[]> begun_;
  std::atomic<int> busy_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<bool> closing_{false}, failed_{false};
  std::exception_ptr failure_;  // the first one of the loop; written by the thread that sets failed_
};
