// A whole training step of a network that is given as a table of operations.
//
// A group of `lanes` images runs through the network independently of other groups; all threads synchronise only where
// batch norm needs the statistics of the whole batch. Once these are known, batch norm is an affine map, and this is used
// twice: forward, it is folded into the weights of the convolution behind it if nothing stands between them; backward, it
// is two sums and one affine map. Max pooling behind it is a part of it, so that what lies between is neither written nor
// read: backward, the gradient of a plane is spread from its windows and the places of their maxima when it is needed. Sums
// over the batch are kept for each part of the batch and added in a fixed order, so results do not depend on the number of
// threads.
#pragma once
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "augmentation.hpp"
#include "elementwise.hpp"
#include "thread_pool.hpp"

// Mirrored by `TrainerSettings` in bindings.py. The pointers are to memory that outlives the trainer.
struct TrainerSettings {
  const uint8_t* pixels;
  const int64_t* labels;
  const float* class_weights;  // null if all classes weigh the same
  float *values, *momentum, *second_moment, *average;  // second_moment is null without AdamW, average without one
  double momentum_decay, weight_decay, smoothing, dropout;
  double mean[max_input_channels], std[max_input_channels];  // of the training pixels, 0 to 1, by channel
  double temperature, soft_weight;  // of the teachers' soft targets; the weight is zero without teachers
  uint64_t seed;
  int64_t threads;
  int64_t repeats_edges;  // whether a moved image shows its nearest pixel beyond its border, or zero
};

// The images of a step and their changes, as `kilonet.data.augment.Batch` describes them: one element for each image, null
// for a change that there is not. Mirrored by `TrainingBatch` in bindings.py.
struct TrainingBatch {
  const int64_t* indices;
  const float *transforms, *blurs, *colours, *noise_levels;
  const int64_t* noise_starts;
  const float* noise_values;
  const int32_t* cutouts;
  const float* shares;
  int64_t count;
  bool changes_values() const { return blurs || colours || noise_levels; }
};

// Sums over the images trained. Mirrored by `TrainerTotals` in bindings.py.
struct TrainerTotals {
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
  if (count > SIZE_MAX / sizeof(Value)) throw std::bad_alloc();
  void* memory = ::operator new(std::max<size_t>(count, 1) * sizeof(Value), std::align_val_t(64));
  std::memset(memory, 0, count * sizeof(Value));
  return Array<Value>((Value*)memory);
}

// What each function of a library returns. No exception leaves one: its caller is Python, or another library.
enum Status { done, out_of_memory, failed };  // `_checker` in bindings.py knows the numbers

// Computes the logits of a group, [class] vectors, by a network of another library. `input` is the group's input tensor.
using TeacherLogits = Status(void* teacher, int thread, int count, const Vector* input, Vector* logits);

// A trained network to learn from. Its input is scale * the student's + shift, by channel, because their normalisations may
// differ.
// Mirrored by `TeacherNetwork` in bindings.py.
struct TeacherNetwork {
  void* trainer;
  TeacherLogits* logits;
  double scale[max_input_channels], shift[max_input_channels];
};

class Trainer {
 public:
  // What runs once is compiled for size, which the compiler does faster.
  [[gnu::cold]] Trainer(const Network& network, const TrainerSettings& settings);
  [[gnu::cold]] ~Trainer() = default;
  void train_batch(const TrainingBatch& trained, double rate, double average_share, int64_t step, int64_t steps_before);
  void logits(const uint8_t* pixels, int64_t count, const float* values, float* result);
  [[gnu::cold]] void add_teacher(TeacherNetwork teacher);
  [[gnu::cold]] void prepare_teacher();
  void teacher_logits(int thread, int count, const Vector* input, Vector* logits);
  TrainerTotals take_totals();

 private:
  // Training; scoring in float32; or computing a teacher's logits in the arithmetic of training.
  enum class Mode { training, evaluation, teacher };
  // The scratch memory of one thread; what is for gradients holds elements of the type of their tensors.
  struct Scratch {
    Array<Vector> padded, kernel, channel_sums, weight_sums, tensors, teacher;
    Array<Vector> gradient;  // of one group of channels of a convolution's output
    Array<Vector> spread;    // the gradient of a plane before max pooling
    Array<Vector> others, plane;  // for mixup and blur, made when they are first needed
    Array<uint8_t> frames;
  };
  // The sums over the groups of one part of the batch.
  struct PartialSums {
    Array<float> weight_gradient, bias_gradient, backward_sums, forward_sums;
    LossSums loss;
  };
  struct Group {
    int64_t first;
    int count;
    Vector* tensors;
    Vector* gradients;
    Scratch& scratch;
    PartialSums* sums;
    Mode mode;
    bool training() const { return mode == Mode::training; }
    Mask valid_lanes() const;
  };
  // A step of the backward pass: all of an operation's, or one of the parts of a convolution's. The parts of a depthwise or
  // other grouped convolution follow one another for each group of its channels, which stays in the cache meanwhile.
  enum class BackwardPart { whole, relu, weights, input };
  struct BackwardStep {
    int operation;
    BackwardPart part;
  };
  // Steps that each group runs independently. Behind them all threads synchronise for the sums of a batch norm. If that
  // norm is folded into a convolution, the sums are computed from the convolution's weight gradient.
  struct BackwardPhase {
    std::vector<BackwardStep> steps;
    int norm = -1, folded_into = -1;
  };
  struct Batch : TrainingBatch {
    const uint8_t* pixels;
    int64_t step = 0;
    int64_t groups() const { return (count + lanes - 1) / lanes; }
  };

  [[gnu::cold]] void allocate(int64_t groups);
  void for_groups(const Batch& batch, const std::function<void(Group&)>& work);
  void load(const Batch& batch, Group& group);
  void load_changed(const Batch& batch, Group& group, int64_t offset, Vector* images);
  void change_values(const Batch& batch, Group& group, const int64_t* places, Vector* images);
  void run_forward(const Batch& batch, Group& group, int begin, int end);
  template <class Element>
  void forward_elements(const Batch& batch, const Operation& operation, Group& group);
  void run_backward(const Batch& batch, Group& group, BackwardStep step);
  template <class Element>
  void backward_elements(const Batch& batch, const Operation& operation, Group& group);
  void forward_convolution(const Operation& operation, Group& group);
  template <class Element>
  void backward_relu(const Batch& batch, const Operation& operation, Group& group, int begin, int end, Element* result);
  template <class Element>
  void backward_channels(const Batch& batch, const Operation& operation, Group& group);
  void backward_weights(const Operation& operation, Group& group);
  void add_bias_gradient(const Operation& operation, Group& group, int tensor, int begin, int end);
  WeightGradientArguments weight_arguments(const Operation& operation, Group& group);
  void add_weight_sums(const Operation& operation, Group& group);
  InputGradientArguments input_arguments(const Operation& operation, Group& group);
  void backward_input(const Operation& operation, Group& group);
  template <class Element>
  void forward_norm(const Batch& batch, const Operation& operation, Group& group);
  template <class Element>
  const Element* normed_gradient(const Operation& operation, Group& group, int channel);
  template <class Element>
  void backward_norm(const Batch& batch, const Operation& operation, Group& group);
  float weight_of(int64_t image) const;
  MixedLabel label_of(const TrainingBatch& batch, int64_t place) const;
  LossSums compute_loss(const Batch& batch, Group& group);
  const Vector* soft_targets(Group& group);
  void pack_weights(const Operation& operation, const float* values, bool in_training);
  void pack_transposed_weights(const Operation& operation);
  void use_running_statistics(const float* values);
  void finish_norm_statistics(int norm, int64_t count);
  void finish_backward_sums(int norm, int64_t count);
  void norm_sums_from_weight_gradient(const Operation& operation);
  [[gnu::cold]] void plan_backward();
  void reduce_gradients();
  void reduce_weight_gradient(const Operation& operation);
  void update_values(double rate, int64_t steps_before);
  void update_average(double share);
  Dropout dropout(const Batch& batch, const Group& group, int operation) const;
  int channels(int norm) const { return network_.tensors[network_.norms[norm].tensor].channels; }
  size_t index_of(const Operation& operation) const { return &operation - network_.operations; }
  const Operation* next_of(const Operation& operation) const {
    return index_of(operation) + 1 < (size_t)network_.operation_count ? &operation + 1 : nullptr;
  }
  // Whether the backward pass of a convolution runs by groups of its channels.
  static bool runs_by_channel(const Operation& operation) {
    return operation.kind == Kind::convolution && operation.kernels.shape.groups > 1 && operation.folded_norm < 0;
  }
  Shape shape(int tensor) const { return network_.tensors[tensor]; }
  // Of a gradient without border.
  Shape gradient_shape(int tensor) const {
    const Shape& own = network_.tensors[tensor];
    return {own.channels, own.rows, own.columns};
  }
  // Calls work<Element>() with the type of a tensor's elements, which is not stored in pairs.
  template <class Work>
  void by_element(const Group& group, int tensor, Work work) const {
    if (group.mode != Mode::evaluation && shape(tensor).stored == Storage::halves) {
      work.template operator()<Halves>();
    } else {
      work.template operator()<Vector>();
    }
  }
  // Every element has the place of a float32 one, which it fills or of which it is smaller.
  template <class Element = Vector>
  Element* tensor(const Group& group, int number) const {
    return (Element*)(group.tensors + tensor_offsets_[number]);
  }
  // Of a batch norm with max pooling behind it, which lie behind its output.
  Places* places(const Group& group, const Operation& norm) const {
    return (Places*)(tensor(group, norm.output) + shape(norm.output).vectors());
  }
  template <class Element = Vector>
  Element* gradient(const Group& group, int number) const {
    return (Element*)(group.gradients + tensor_gradient_offsets_[number]);
  }
  NormGradient norm_gradient(int norm) const {
    const size_t at = norm_offsets_[norm];
    return {&gradient_scale_[at], &value_scale_[at], &gradient_offset_[at]};
  }

  Network network_;
  TrainerSettings settings_;
  ThreadPool thread_pool_;
  int64_t groups_ = 0;
  Array<Vector> tensors_, gradients_;
  std::vector<size_t> tensor_offsets_;           // by tensor, the last being the size of all
  std::vector<size_t> tensor_gradient_offsets_;  // the same for gradients, some of which have a border
  std::vector<int> borders_;                     // by tensor: columns of zeros on both sides of its gradient
  std::vector<BackwardPhase> backward_;
  std::vector<size_t> bias_offsets_;    // by operation, in biases_ and in a part's bias_gradient
  std::vector<size_t> weight_offsets_;  // by operation, in packed_, transposed_ and a part's weight_gradient; shared weights
                                        // have a place for each convolution that uses them
  std::vector<size_t> norm_offsets_;    // by norm, in the arrays below
  std::vector<float> packed_, transposed_, biases_;
  std::vector<float> scale_, shift_, mean_, inverse_std_, centre_, gradient_scale_, gradient_offset_, value_scale_;
  std::vector<float> gradient_;
  std::vector<Scratch> scratch_;
  std::vector<PartialSums> partial_sums_;
  std::vector<TeacherNetwork> teachers_;
  TrainerTotals totals_{};
};
