// A pool of threads that run the tasks of a loop. A thread that waits spins for a moment before it sleeps. An exception in a
// task is thrown again to the caller of the loop, once all threads are done; the tasks not begun by then are left out.
#pragma once
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
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

  // Calls work(task, thread) for every task below `tasks`, each on the next free thread, and waits for all of them.
  void parallel_for(int tasks, const std::function<void(int, int)>& work) {
    work_ = &work;
    task_count_ = tasks;
    next_ = 0;
    failure_ = nullptr;
    failed_ = false;
    busy_ = (int)workers_.size();
    round_.fetch_add(1);
    round_.notify_all();
    run_tasks(0);
    for (int left; (left = wait_for(busy_, [](int value) { return value == 0; })) != 0;) busy_.wait(left);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void close() {
    closing_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // A training step has a dozen short loops, and waking a sleeping thread takes as long as some of them.
  template <class Value, class Condition>
  static Value wait_for(std::atomic<Value>& value, Condition holds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(200);
    for (;;) {
      for (int i = 0; i < 64; i++) {
        const Value now = value.load();
        if (holds(now)) return now;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      if (std::chrono::steady_clock::now() > end) return value.load();
    }
  }

  void run_tasks(int thread) {
    try {
      for (int task; (task = next_.fetch_add(1)) < task_count_;) (*work_)(task, thread);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
      next_ = task_count_;
    }
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
  int task_count_ = 0;
  std::atomic<int> next_{0}, busy_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<bool> closing_{false}, failed_{false};
  std::exception_ptr failure_;  // the first one of the loop; written by the thread that sets failed_
};
