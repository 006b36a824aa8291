// A whole training step of a network given as a table of operations.
//
// Groups of `lanes` images run through the network by themselves as far as they can; all threads meet only where batch
// norm needs the statistics of the whole batch. Two things follow from batch norm being affine once these are known:
// it is folded into the weights of the convolution behind it where nothing stands between, and backward it is two sums
// and one affine map. Sums over the batch are kept by part and added in order, so results do not depend on the threads.
#pragma once
#include <memory>
#include <new>

#include "elementwise.hpp"
#include "threads.hpp"

// Mirrored by `Settings` in engine.py. Pointers are to memory that outlives the trainer.
struct Settings {
  const uint8_t* pixels;
  const int64_t* labels;
  float *values, *momentum, *second_moment, *average;  // second_moment for AdamW alone; average for one alone
  double momentum_decay, weight_decay, smoothing, dropout, mean, std;
  double temperature, soft_weight;  // of the teachers' targets; a weight of zero without teachers
  uint64_t seed;
  int64_t threads;
};

// Mirrored by `Totals` in engine.py.
struct Totals {
  double loss;
  int64_t correct, images;
};

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

template <class Value>
using Array = std::unique_ptr<Value[], AlignedDelete>;

template <class Value>
Array<Value> zeros(size_t count) {
  void* memory = ::operator new(std::max<size_t>(count, 1) * sizeof(Value), std::align_val_t(64));
  std::memset(memory, 0, count * sizeof(Value));
  return Array<Value>((Value*)memory);
}

// Asks a network of another library for the logits of a group: [class] vectors. `input` is the group's input tensor.
using Answer = void(void* teacher, int thread, int count, const Vector* input, Vector* logits);

// A trained network that is learnt from. Its input is scale * the student's + shift, as their normalisations may differ.
struct Teacher {
  void* trainer;
  Answer* answer;
  double scale, shift;
};

class Trainer {
 public:
  Trainer(const Network& network, const Settings& settings);
  void step(const int64_t* indices, const float* transforms, int64_t count, double rate, double average_share,
            int64_t step, int64_t steps_before);
  void logits(const uint8_t* pixels, int64_t count, const float* values, float* result);
  void learn_from(Teacher teacher);
  void prepare_answers();
  void answer(int thread, int count, const Vector* input, Vector* logits);
  Totals take_totals();

 private:
  // Training, scoring in float32, or scoring as fast as training does.
  enum class Mode { training, exact, quick };
  // What one thread needs for the group at hand.
  struct Scratch {
    Array<Vector> padded, pairs, sums, weight_sums, tensors, lesson;
    Array<uint8_t> frames;
  };
  // What the groups of one part add up.
  struct Part {
    Array<float> gradient, totals, backward_sums, forward_sums;
    Score score;
  };
  struct Group {
    int64_t first;
    int count;
    Vector* tensors;
    Vector* gradients;
    Scratch& scratch;
    Part* part;
    Mode mode;
    bool training() const { return mode == Mode::training; }
    Mask present() const;
  };
  // A move of the backward pass: all of an operation's, or the steps that a convolution's falls into.
  enum class Step { whole, open, weights, input };
  struct Move {
    int operation;
    Step step;
  };
  // Moves that a group makes by itself, and what all threads meet for behind them: the sums of a batch norm, which come
  // out of the weights' gradient of the convolution it is folded into if there is one.
  struct Phase {
    std::vector<Move> moves;
    int norm = -1, folded_into = -1;
  };
  struct Batch {
    const uint8_t* pixels;
    const int64_t* indices;
    const float* transforms;
    int64_t count, step;
    int64_t groups() const { return (count + lanes - 1) / lanes; }
  };

  void reserve(int64_t groups);
  void for_groups(const Batch& batch, const std::function<void(Group&)>& work);
  void load(const Batch& batch, Group& group);
  void run_forward(const Batch& batch, Group& group, int begin, int end);
  void run_backward(const Batch& batch, Group& group, Move move);
  void convolve(const Operation& operation, Group& group);
  void open_gradient(const Operation& operation, Group& group);
  void find_weight_gradient(const Operation& operation, Group& group);
  void find_input_gradient(const Operation& operation, Group& group);
  void apply(const Batch& batch, const Operation& operation, Group& group);
  void apply_back(const Batch& batch, const Operation& operation, Group& group);
  Score judge(const Batch& batch, Group& group);
  const Vector* ask_teachers(Group& group);
  const Vector* padded_input(const Operation& operation, Group& group);
  void pack(const Operation& operation, const float* values, bool paired);
  void pack_turned(const Operation& operation);
  void use_running_statistics(const float* values);
  void finish_statistics(int norm, int64_t count);
  void finish_backward_sums(int norm, int64_t count);
  void take_sums_from_weights(const Operation& operation);
  void plan_backward();
  void finish_gradient();
  void add_gradient(const Operation& operation);
  void update(double rate, int64_t steps_before);
  void update_average(double share);
  Dropout dropout(const Batch& batch, const Group& group, int operation) const;
  int channels(int norm) const { return network_.tensors[network_.norms[norm].tensor].channels; }
  size_t index_of(const Operation& operation) const { return &operation - network_.operations; }
  Shape shape(int tensor) const { return network_.tensors[tensor]; }
  Vector* tensor(const Group& group, int number) const { return group.tensors + offsets_[number]; }
  Vector* gradient(const Group& group, int number) const { return group.gradients + gradient_offsets_[number]; }
  NormGradient norm_gradient_of(int norm) const {
    const size_t at = norm_offsets_[norm];
    return {&slope_[at], &incline_[at], &offset_[at]};
  }

  Network network_;
  Settings settings_;
  Threads threads_;
  int64_t groups_ = 0;
  Array<Vector> tensors_, gradients_;
  std::vector<size_t> offsets_;       // by tensor, the last being the size of all
  std::vector<size_t> gradient_offsets_;  // the same of gradients, some of which have a border
  std::vector<int> borders_;          // by tensor: columns of zeros on both sides of its gradient
  std::vector<Phase> backward_;
  std::vector<size_t> bias_;          // by operation, in biases_ and in a part's totals
  std::vector<size_t> weights_;       // by operation, in packed_, turned_ and a part's gradient; repeated ones have their own
  std::vector<size_t> norm_offsets_;  // by norm, in the arrays below
  std::vector<float> packed_, turned_, biases_;
  std::vector<float> scale_, shift_, mean_, inverse_, centre_, slope_, offset_, incline_;
  std::vector<float> gradient_;
  std::vector<Scratch> scratch_;
  std::vector<Part> parts_;
  std::vector<Teacher> teachers_;
  Totals totals_{};
};
