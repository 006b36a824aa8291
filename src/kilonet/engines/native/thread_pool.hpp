// A pool of threads that run the tasks of a loop. A thread that waits spins for a moment before it sleeps. An exception in a
// task is thrown again to the caller of the loop, once all threads are done; the tasks not begun by then are left out.
//
// A thread takes every n-th task, the same ones in each loop, and then what others have not begun. Each loop runs them in the
// opposite order of the one before. So a task often finds what it read and wrote in the loop before in its core's cache.
//
// Where another process has a core, a thread that has begun a task waits for its turn, and all others for that thread. Then
// a thread that spins keeps its core from the one that it waits for. So after such a stall the threads sleep at once for a
// number of loops.
#pragma once
#include <algorithm>
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
  explicit ThreadPool(int count) {
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
    busy_ = (int)workers_.size();
    round_.fetch_add(1);
    round_.notify_all();
    const auto begin = Clock::now();
    const int run = run_tasks(0);
    const auto end = Clock::now();
    for (int left; (left = wait_for(busy_, [](int value) { return value == 0; })) != 0;) busy_.wait(left);
    if (run > 0) notice_stall((end - begin) / run, Clock::now() - end);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds longest_spin{200};
  static constexpr int shortest_phase = 16, longest_phase = 8192;  // loops

  // Lets the threads sleep at once in the next loops if the others took much longer than a task does, which the caller waited
  // for. If they stall again soon after, that phase is twice as long.
  void notice_stall(Clock::duration task, Clock::duration waited) {
    loops_++;
    if (!spins_ && loops_ == phase_) spins_ = true, loops_ = 0;
    if (!spins_ || waited < longest_spin + 3 * task) return;
    phase_ = loops_ <= phase_ ? std::min(2 * phase_, longest_phase) : shortest_phase;
    spins_ = false, loops_ = 0;
  }

  void close() {
    closing_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // A training step has a dozen short loops, and waking a sleeping thread takes as long as some of them.
  template <class Value, class Condition>
  Value wait_for(const std::atomic<Value>& value, Condition holds) const {
    const auto end = Clock::now() + (spins_ ? longest_spin : std::chrono::microseconds(0));
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

  // Returns how many tasks the thread has run.
  int run_tasks(int thread) {
    int run = 0;
    try {
      for (const bool own : {true, false})
        for (int i = 0; i < task_count_; i++) {
          const int task = reversed_ ? task_count_ - 1 - i : i;
          if ((task % count() == thread) == own) run += run_task(task, thread);
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
      while (wait_for(round_, [&](unsigned now) { return now != seen; }) == seen) round_.wait(seen);
      seen++;
      if (closing_) return;
      run_tasks(thread);
      if (busy_.fetch_sub(1) == 1) busy_.notify_all();
    }
  }

  std::vector<std::thread> workers_;
  const std::function<void(int, int)>* work_ = nullptr;
  int task_count_ = 0, capacity_ = 0;
  bool reversed_ = false;
  std::unique_ptr<std::atomic<bool>[]> begun_;
  std::atomic<int> busy_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<bool> closing_{false}, failed_{false}, spins_{true};
  int phase_ = shortest_phase, loops_ = 0;  // the length of a phase without spinning; loops since one began or ended
  std::exception_ptr failure_;  // the first one of the loop; written by the thread that sets failed_
};
