// A pool of threads that share out the parts of a loop, which wait awake for a moment before they sleep.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

class Threads {
 public:
  explicit Threads(int count) {
    for (int thread = 1; thread < count; thread++) others_.emplace_back([this, thread] { serve(thread); });
  }

  ~Threads() {
    closing_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& other : others_) other.join();
  }

  int count() const { return (int)others_.size() + 1; }

  // Calls work(part, thread) for every part below `parts`, whichever thread is free.
  void share(int parts, const std::function<void(int, int)>& work) {
    work_ = &work;
    parts_ = parts;
    next_ = 0;
    busy_ = (int)others_.size();
    round_.fetch_add(1);
    round_.notify_all();
    take_parts(0);
    for (int left; (left = wait_for(busy_, [](int value) { return value == 0; })) != 0;) busy_.wait(left);
  }

 private:
  // A step has a dozen short loops, and waking a sleeping thread takes as long as some of them.
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

  void take_parts(int thread) {
    for (int part; (part = next_.fetch_add(1)) < parts_;) (*work_)(part, thread);
  }

  void serve(int thread) {
    for (unsigned seen = 0;;) {
      while (wait_for(round_, [&](unsigned now) { return now != seen; }) == seen) round_.wait(seen);
      seen++;
      if (closing_) return;
      take_parts(thread);
      if (busy_.fetch_sub(1) == 1) busy_.notify_all();
    }
  }

  std::vector<std::thread> others_;
  const std::function<void(int, int)>* work_ = nullptr;
  int parts_ = 0;
  std::atomic<int> next_{0}, busy_{0};
  std::atomic<unsigned> round_{0};
  std::atomic<bool> closing_{false};
};
