#include "trainer.hpp"

// A program that times the operations (benchmarks/roofline.cpp) defines it before it includes this file.
#ifndef KILONET_TIMED
#define KILONET_TIMED(operation, step)
#endif

namespace {

constexpr int64_t max_parts = 64;
constexpr double norm_epsilon = 1e-5, norm_momentum = 0.1, second_decay = 0.999, adam_epsilon = 1e-8;
const float identity_map[6] = {1, 0, 0, 0, 1, 0};

void nesterov(float* __restrict values, float* __restrict momentum, const float* __restrict gradient, size_t count,
              float rate, float decay, float beta) {
  for (size_t i = 0; i < count; i++) {
    const float decayed = gradient[i] + decay * values[i];
    momentum[i] = beta * momentum[i] + decayed;
    values[i] -= rate * (decayed + beta * momentum[i]);
  }
}

void adamw(float* __restrict values, float* __restrict momentum, float* __restrict second, const float* __restrict gradient,
           size_t count, double rate, double decay, double beta, int64_t steps) {
  const float share = (float)(1 - beta), second_share = (float)(1 - second_decay), shrink = (float)(rate * decay);
  const float step = (float)(rate / (1 - std::pow(beta, steps)));
  const float unbias = (float)std::sqrt(1 - std::pow(second_decay, steps)), least = (float)adam_epsilon;
  for (size_t i = 0; i < count; i++) {
    values[i] -= shrink * values[i];
    momentum[i] += share * (gradient[i] - momentum[i]);
    second[i] += second_share * (gradient[i] * gradient[i] - second[i]);
    values[i] -= step * momentum[i] / (std::sqrt(second[i]) / unbias + least);
  }
}

}  // namespace

Mask Trainer::Group::valid_lanes() const {
  Mask mask;
  for (int l = 0; l < lanes; l++) mask[l] = l < count ? -1 : 0;
  return mask;
}

Trainer::Trainer(const Network& network, const TrainerSettings& settings)
    : network_(network), settings_(settings), thread_pool_((int)settings.threads), scratch_(settings.threads) {
  size_t vectors = 0, gradients = 0, biases = 0, norms = 0, widest = 0, padded = 0, kernel = 0, most = 0, weights = 0;
  size_t channel_gradient = 0, spread = 0;
  borders_.resize(network.tensor_count);
  for (int o = 0; o < network.operation_count; o++) {
    const Operation& operation = network.operations[o];
    bias_offsets_.push_back(biases);
    weight_offsets_.push_back(weights);
    if (operation.kind == Kind::norm && operation.pool_size)
      spread = std::max(spread, network.tensors[operation.input].plane());
    if (operation.kind != Kind::convolution) continue;
    const Convolution c = operation.kernels.shape;
    biases += c.channels_out;
    weights += c.weight_count();
    most = std::max(most, c.weight_count());
    borders_[operation.output] = c.border();
    padded = std::max(padded, c.padded_vectors());
    if (c.groups > 1) channel_gradient = std::max(channel_gradient, c.group_outputs() * c.gradient_pitch());
    kernel = std::max(kernel, operation.kernels.scratch_vectors);
  }
  for (int t = 0; t < network.tensor_count; t++) {
    const Shape& shape = network.tensors[t];
    tensor_offsets_.push_back(vectors);
    tensor_gradient_offsets_.push_back(gradients);
    vectors += shape.vectors();
    // Tensor 0 is the input, and each operation adds one. Places are bytes, a quarter of a vector.
    if (t > 0 && network.operations[t - 1].kind == Kind::norm && network.operations[t - 1].pool_size)
      vectors += (shape.values() + 3) / 4;
    gradients += shape.channels * pitch_of((size_t)shape.rows * (shape.columns + 2 * borders_[t]));
    widest = std::max(widest, (size_t)shape.channels);
  }
  tensor_offsets_.push_back(vectors);
  tensor_gradient_offsets_.push_back(gradients);
  bias_offsets_.push_back(biases);
  weight_offsets_.push_back(weights);
  for (int n = 0; n < network.norm_count; n++) {
    norm_offsets_.push_back(norms);
    norms += channels(n);
  }
  norm_offsets_.push_back(norms);
  biases_.resize(biases);
  for (auto* values : {&scale_, &shift_, &mean_, &inverse_std_, &centre_, &gradient_scale_, &gradient_offset_, &value_scale_})
    values->resize(norms);
  for (auto* values : {&packed_, &transposed_}) values->resize(weights);
  gradient_.resize(network.value_count);
  for (Scratch& scratch : scratch_)
    scratch = {zeros<Vector>(padded), zeros<Vector>(kernel), zeros<Vector>(2 * widest), zeros<Vector>(most),
               zeros<Vector>(vectors), zeros<Vector>(shape(0).vectors() + 2 * shape(network.tensor_count - 1).channels),
               zeros<Vector>(channel_gradient), zeros<Vector>(spread), nullptr, nullptr,
               zeros<uint8_t>(frame_bytes(network.tensors[0]))};
  plan_backward();
}

void Trainer::plan_backward() {
  backward_.emplace_back();
  const auto end_phase = [&](int norm, int folded_into) {
    backward_.back().norm = norm;
    backward_.back().folded_into = folded_into;
    backward_.emplace_back();
  };
  std::vector<bool> applied(network_.norm_count);
  for (int o = network_.operation_count - 1; o >= 0; o--) {
    const Operation& operation = network_.operations[o];
    if (operation.kind == Kind::norm) {
      backward_.back().steps.push_back({o, BackwardPart::whole});
      applied[operation.norm] = true;
      end_phase(operation.norm, -1);
    } else if (runs_by_channel(operation)) {
      backward_.back().steps.push_back({o, BackwardPart::whole});
    } else if (operation.kind == Kind::convolution) {
      if (operation.norm >= 0 && applied[operation.norm]) backward_.back().steps.push_back({o, BackwardPart::relu});
      backward_.back().steps.push_back({o, BackwardPart::weights});
      if (operation.folded_norm >= 0) end_phase(operation.folded_norm, o);
      if (operation.needs_input_gradient) backward_.back().steps.push_back({o, BackwardPart::input});
    } else if (operation.needs_input_gradient) {
      backward_.back().steps.push_back({o, BackwardPart::whole});
    }
  }
}

void Trainer::allocate(int64_t groups) {
  const size_t parts = std::min(groups, max_parts);
  for (size_t p = partial_sums_.size(); p < parts; p++)
    partial_sums_.push_back({zeros<float>(weight_offsets_.back()), zeros<float>(bias_offsets_.back()),
                             zeros<float>(2 * norm_offsets_.back()), zeros<float>(2 * norm_offsets_.back()), {}});
  if (groups <= groups_) return;
  groups_ = 0;
  tensors_.reset(), gradients_.reset();
  tensors_ = zeros<Vector>(groups * tensor_offsets_.back());
  gradients_ = zeros<Vector>(groups * tensor_gradient_offsets_.back());
  groups_ = groups;
}

void Trainer::for_groups(const Batch& batch, const std::function<void(Group&)>& work) {
  const int64_t groups = batch.groups(), parts = std::min(groups, max_parts);
  thread_pool_.parallel_for((int)parts, [&](int p, int thread) {
    for (int64_t g = groups * p / parts; g < groups * (p + 1) / parts; g++) {
      Group group{g * lanes, (int)std::min<int64_t>(lanes, batch.count - g * lanes),
                  tensors_.get() + g * tensor_offsets_.back(), gradients_.get() + g * tensor_gradient_offsets_.back(),
                  scratch_[thread], &partial_sums_[p], Mode::training};
      work(group);
    }
  });
}

// Writes a group's images, changed and normalised.
void Trainer::load(const Batch& batch, Group& group) {
  load_changed(batch, group, 0, group.tensors);
  if (!batch.shares) return;
  Array<Vector>& others = group.scratch.others;
  if (!others) others = zeros<Vector>(shape(0).vectors());
  load_changed(batch, group, 1, others.get());
  Vector share = broadcast(1);
  for (int l = 0; l < group.count; l++) share[l] = batch.shares[group.first + l];
  mix(shape(0), share, others.get(), group.tensors);
}

// Writes the images that stand `offset` places behind those of a group in their batch, which goes round.
void Trainer::load_changed(const Batch& batch, Group& group, int64_t offset, Vector* result) {
  const Shape size = shape(0);
  int64_t places[lanes];
  GroupImages images;
  for (int l = 0; l < lanes; l++) {
    const int64_t place = places[l] = (group.first + l + offset) % batch.count;
    const bool there = l < group.count;
    images.pixels[l] = there ? batch.pixels + (batch.indices ? batch.indices[place] : place) * size.values() : nullptr;
    images.transforms[l] = there && batch.transforms ? batch.transforms + 6 * place : identity_map;
  }
  ChannelMaps normal, plain;
  for (int c = 0; c < size.channels; c++) {
    const double scale = 1 / (255 * settings_.std[c]);
    normal.scale[c] = (float)scale, normal.shift[c] = (float)(-255 * settings_.mean[c] * scale);
    plain.scale[c] = 1, plain.shift[c] = 0;
  }
  uint8_t* frames = group.scratch.frames.get();
  resample(size, images, batch.changes_values() ? plain : normal, settings_.repeats_edges, frames, result);
  if (batch.changes_values()) {
    change_values(batch, group, places, result);
    normalise(size, normal, batch.colours || batch.noise_levels, result);
  }
  if (batch.cutouts) {
    Mask rectangle[4];
    for (int side = 0; side < 4; side++)
      for (int l = 0; l < lanes; l++) rectangle[side][l] = batch.cutouts[4 * places[l] + side];
    cut_out(size, rectangle, result);
  }
}

// Changes the values of a group's pixels, 0 to 255. Each lane has an image's own changes, those without an image any.
void Trainer::change_values(const Batch& batch, Group& group, const int64_t* places, Vector* images) {
  const Shape size = shape(0);
  const auto by_lane = [&](const float* values, size_t distance) {
    Vector result;
    for (int l = 0; l < lanes; l++) result[l] = values[places[l] * distance];
    return result;
  };
  if (batch.blurs) {
    Array<Vector>& plane = group.scratch.plane;
    if (!plane) plane = zeros<Vector>(size.plane());
    blur(size, by_lane(batch.blurs, 1), plane.get(), images);
  }
  if (batch.colours) {
    const int count = size.channels * (size.channels + 1);
    Vector matrix[max_input_channels * (max_input_channels + 1)];
    for (int k = 0; k < count; k++) matrix[k] = by_lane(batch.colours + k, count);
    map_colours(size, matrix, images);
  }
  if (batch.noise_levels) {
    const float* values[lanes];
    for (int l = 0; l < lanes; l++) values[l] = batch.noise_values + batch.noise_starts[places[l]];
    add_noise(size, by_lane(batch.noise_levels, 1), values, images);
  }
}

void Trainer::run_forward(const Batch& batch, Group& group, int begin, int end) {
  for (int o = begin; o < end; o++) {
    KILONET_TIMED(o, 0);
    const Operation& operation = network_.operations[o];
    if (operation.kind == Kind::convolution)
      forward_convolution(operation, group);
    else
      by_element(group, operation.input, [&]<class Element>() { forward_elements<Element>(batch, operation, group); });
  }
}

// Runs an operation that is no convolution, by the type of its input's elements.
template <class Element>
void Trainer::forward_elements(const Batch& batch, const Operation& operation, Group& group) {
  const Element* input = tensor<Element>(group, operation.input);
  Element* output = tensor<Element>(group, operation.output);
  const Shape from = shape(operation.input), to = shape(operation.output);
  if (operation.kind == Kind::norm) forward_norm<Element>(batch, operation, group);
  if (operation.kind == Kind::max_pool) max_pool(from, to, operation.pool_size, input, output);
  if (operation.kind == Kind::average_pool) average_pool(from, to, operation.pool_size, input, output);
  if (operation.kind == Kind::global_average_pool) global_average_pool(from, input, tensor(group, operation.output));
}

void Trainer::run_backward(const Batch& batch, Group& group, BackwardStep step) {
  KILONET_TIMED(step.operation, 1 + (int)step.part);
  const Operation& operation = network_.operations[step.operation];
  if (step.part == BackwardPart::relu)
    by_element(group, operation.output, [&]<class Element>() {
      backward_relu(batch, operation, group, 0, shape(operation.output).channels,
                    gradient<Element>(group, operation.output));
    });
  if (step.part == BackwardPart::weights) backward_weights(operation, group);
  if (step.part == BackwardPart::input) backward_input(operation, group);
  if (step.part != BackwardPart::whole) return;
  if (runs_by_channel(operation))
    by_element(group, operation.output, [&]<class Element>() { backward_channels<Element>(batch, operation, group); });
  else
    by_element(group, operation.input, [&]<class Element>() { backward_elements<Element>(batch, operation, group); });
}

template <class Element>
void Trainer::backward_elements(const Batch& batch, const Operation& operation, Group& group) {
  const Shape from = shape(operation.input), to = shape(operation.output);
  const Element* output_gradient = gradient<Element>(group, operation.output);
  Element* result = gradient<Element>(group, operation.input);
  if (operation.kind == Kind::norm) backward_norm<Element>(batch, operation, group);
  if (operation.kind == Kind::max_pool)
    max_pool_gradient(from, to, operation.pool_size, tensor<Element>(group, operation.input),
                      tensor<Element>(group, operation.output), output_gradient, result);
  if (operation.kind == Kind::average_pool) average_pool_gradient(from, to, operation.pool_size, output_gradient, result);
  if (operation.kind == Kind::global_average_pool)
    global_average_pool_gradient(from, gradient(group, operation.output), result);
}

void Trainer::forward_convolution(const Operation& operation, Group& group) {
  const int index = (int)index_of(operation);
  Vector* sums = group.scratch.channel_sums.get();
  std::fill_n(sums, 2 * shape(operation.output).channels, Vector{});
  const float* centre = operation.norm < 0 ? nullptr : &centre_[norm_offsets_[operation.norm]];
  const auto forward = group.mode == Mode::evaluation ? operation.kernels.float32_forward : operation.kernels.forward;
  const Mask valid = group.valid_lanes();
  forward({tensor(group, operation.input), group.scratch.padded.get(), &packed_[weight_offsets_[index]],
           group.scratch.kernel.get(), &biases_[bias_offsets_[index]], tensor(group, operation.output), valid, centre, sums});
  if (operation.norm < 0 || !group.training()) return;
  float* sums_of_part = &group.sums->forward_sums[2 * norm_offsets_[operation.norm]];
  for (int c = 0; c < 2 * channels(operation.norm); c++) sums_of_part[c] += sum_of_lanes(masked(valid, sums[c]));
}

// Computes the gradient before the ReLU of a convolution's output channels from `begin` to `end`, whose batch norm is an
// operation of its own, the next one. `result` is where the first of these channels is written.
template <class Element>
void Trainer::backward_relu(const Batch& batch, const Operation& operation, Group& group, int begin, int end,
                            Element* result) {
  const Operation& norm = *(&operation + 1);
  const Shape own = shape(operation.output);
  const int border = borders_[operation.output];
  const size_t pitch = pitch_of((size_t)own.rows * (own.columns + 2 * border));
  const Dropout dropped = dropout(batch, group, (int)index_of(norm));
  float* bias_gradient = &group.sums->bias_gradient[bias_offsets_[index_of(operation)]];
  for (int c = begin; c < end; c++)
    bias_gradient[c] += backward_norm_and_relu(own, c, normed_gradient<Element>(norm, group, c),
                                               tensor<Element>(group, operation.output), dropped,
                                               norm_gradient(operation.norm), border, result + (c - begin) * pitch);
}

// Runs the backward pass of a grouped convolution, one group of its channels after another. If its input comes of a
// convolution without batch norm, adds that one's bias gradient.
template <class Element>
void Trainer::backward_channels(const Batch& batch, const Operation& operation, Group& group) {
  const Convolution c = operation.kernels.shape;
  const Operation* next = next_of(operation);
  const bool normed = next && next->kind == Kind::norm;
  const Operation* before = operation.input > 0 ? &network_.operations[operation.input - 1] : nullptr;
  const bool biased = before && before->kind == Kind::convolution && before->norm < 0;
  WeightGradientArguments weights = weight_arguments(operation, group);
  InputGradientArguments input = input_arguments(operation, group);
  Element* own_gradient = (Element*)group.scratch.gradient.get();
  // For its border.
  if (normed) std::fill_n(own_gradient, c.group_outputs() * c.gradient_pitch(), Element{});
  for (int g = 0; g < c.groups; g++) {
    if (normed) {
      weights.gradient = input.gradient = own_gradient;
      backward_relu(batch, operation, group, g * c.group_outputs(), (g + 1) * c.group_outputs(), own_gradient);
    } else {
      weights.gradient = input.gradient =
          gradient<Element>(group, operation.output) + g * c.group_outputs() * c.gradient_pitch();
    }
    operation.kernels.weight_gradient(weights, g, g + 1);
    if (!operation.needs_input_gradient) continue;
    if (input.added && next->pool_size) {
      // The plane that `backward_relu` has spread, of the only channel of this group.
      input.added = group.scratch.spread.get();
      input.added_from = g;
    }
    operation.kernels.input_gradient(input, g, g + 1);
    if (biased) add_bias_gradient(*before, group, operation.input, g * c.group_inputs(), (g + 1) * c.group_inputs());
  }
  add_weight_sums(operation, group);
}

void Trainer::backward_weights(const Operation& operation, Group& group) {
  const Operation* next = next_of(operation);
  if (operation.norm < 0 && !(next && runs_by_channel(*next))) {
    // Max pooling gives each gradient to one place, so the sums can be taken from its smaller output.
    const int tensor = next && next->kind == Kind::max_pool ? next->output : operation.output;
    add_bias_gradient(operation, group, tensor, 0, shape(tensor).channels);
  }
  const WeightGradientArguments pass = weight_arguments(operation, group);
  operation.kernels.weight_gradient(pass, 0, operation.kernels.shape.groups);
  add_weight_sums(operation, group);
}

// Adds the sums of the channels from `begin` to `end` of a tensor's gradient to the gradient of a convolution's bias.
void Trainer::add_bias_gradient(const Operation& operation, Group& group, int tensor, int begin, int end) {
  by_element(group, tensor, [&]<class Element>() {
    add_channel_sums(gradient_shape(tensor), begin, end, gradient<Element>(group, tensor),
                     &group.sums->bias_gradient[bias_offsets_[index_of(operation)]]);
  });
}

// Returns the arguments for all groups of channels, with sums that are zero.
WeightGradientArguments Trainer::weight_arguments(const Operation& operation, Group& group) {
  Vector* sums = group.scratch.weight_sums.get();
  std::fill_n(sums, operation.kernels.shape.weight_count(), Vector{});
  return {tensor(group, operation.input), group.scratch.padded.get(), gradient(group, operation.output),
          group.scratch.kernel.get(), sums};
}

void Trainer::add_weight_sums(const Operation& operation, Group& group) {
  const Vector* sums = group.scratch.weight_sums.get();
  float* result = &group.sums->weight_gradient[weight_offsets_[index_of(operation)]];
  for (size_t i = 0; i < operation.kernels.shape.weight_count(); i++) result[i] += sum_of_lanes(sums[i]);
}

// Returns the arguments for all groups of channels, without those for a folded batch norm.
InputGradientArguments Trainer::input_arguments(const Operation& operation, Group& group) {
  // The input of a residual convolution is also added to the output of the next operation, its batch norm.
  const Vector* added = operation.accumulates_input_gradient ? gradient(group, (&operation + 1)->output) : nullptr;
  return {gradient(group, operation.output), &transposed_[weight_offsets_[index_of(operation)]], group.scratch.kernel.get(),
          gradient(group, operation.input), added};
}

void Trainer::backward_input(const Operation& operation, Group& group) {
  const int input = operation.input, channels = shape(input).channels, groups = operation.kernels.shape.groups;
  InputGradientArguments pass = input_arguments(operation, group);
  if (operation.folded_norm < 0) return operation.kernels.input_gradient(pass, 0, groups);
  pass.norm = norm_gradient(operation.folded_norm);
  pass.values = tensor(group, input);
  pass.border = borders_[input];
  pass.pitch = pitch_of((size_t)shape(input).rows * (shape(input).columns + 2 * pass.border));
  pass.channel_sums = group.scratch.channel_sums.get();
  std::fill_n(pass.channel_sums, channels, Vector{});
  operation.kernels.input_gradient(pass, 0, groups);
  // The input is the output of the operation before, a convolution.
  float* bias_gradient = &group.sums->bias_gradient[bias_offsets_[index_of(operation) - 1]];
  for (int c = 0; c < channels; c++) bias_gradient[c] += sum_of_lanes(pass.channel_sums[c]);
}

Dropout Trainer::dropout(const Batch& batch, const Group& group, int operation) const {
  Dropout dropout;
  dropout.active = group.training() && network_.operations[operation].has_dropout;
  if (!dropout.active) return dropout;
  dropout.drop_below = (uint32_t)(settings_.dropout * 4294967296.0);
  dropout.scale = (float)(1 / (1 - settings_.dropout));
  uint32_t key = hash32((uint32_t)settings_.seed) ^ (uint32_t)(settings_.seed >> 32);
  for (uint32_t part : {(uint32_t)batch.step, (uint32_t)(batch.step >> 32), (uint32_t)operation})
    key = hash32(key ^ part) + part;
  for (int l = 0; l < lanes; l++) dropout.keys[l] = hash32(key + (uint32_t)(group.first + l) * 0x85ebca6bu);
  return dropout;
}

template <class Element>
void Trainer::forward_norm(const Batch& batch, const Operation& operation, Group& group) {
  const size_t norm = norm_offsets_[operation.norm];
  const Shape from = shape(operation.input), added = shape(std::max(operation.residual, 0));
  const ChannelAffine affine{&scale_[norm], &shift_[norm]};
  const Element *input = tensor<Element>(group, operation.input), *residual = nullptr;
  if (operation.residual >= 0) residual = tensor<Element>(group, operation.residual);
  if (operation.pool_size)
    return apply_batch_norm_and_max_pool(from, shape(operation.output), operation.pool_size, input, affine, added, residual,
                                         tensor<Element>(group, operation.output), places(group, operation));
  apply_batch_norm(from, input, affine, dropout(batch, group, (int)index_of(operation)), added, residual,
                   tensor<Element>(group, operation.output));
}

// Returns the plane of a channel's gradient behind a batch norm, before its max pooling if it has one.
template <class Element>
const Element* Trainer::normed_gradient(const Operation& operation, Group& group, int channel) {
  const Shape to = shape(operation.output);
  const Element* own = gradient<Element>(group, operation.output) + channel * to.pitch();
  if (!operation.pool_size) return own;
  Element* plane = (Element*)group.scratch.spread.get();
  spread_pool_gradient(shape(operation.input), to, operation.pool_size, own,
                       places(group, operation) + channel * to.plane(), plane);
  return plane;
}

template <class Element>
void Trainer::backward_norm(const Batch& batch, const Operation& operation, Group& group) {
  const size_t norm = norm_offsets_[operation.norm];
  const Dropout dropped = dropout(batch, group, (int)index_of(operation));
  float* sums = &group.sums->backward_sums[2 * norm];
  for (int c = 0; c < channels(operation.norm); c++)
    backward_norm_sums(shape(operation.input), c, normed_gradient<Element>(operation, group, c),
                       tensor<Element>(group, operation.input), mean_[norm + c], dropped, sums + 2 * c);
}

// Orders a convolution's weights for the forward kernel, with the batch norm of its input folded into them.
void Trainer::pack_weights(const Operation& operation, const float* values, bool in_training) {
  // A copy: what is written below might lie in the original, so its numbers would be read again for every weight.
  const Convolution c = operation.kernels.shape;
  const float* weights = values + operation.weight_offset;
  float* packed = &packed_[weight_offsets_[index_of(operation)]];
  float* bias = &biases_[bias_offsets_[index_of(operation)]];
  const size_t norm = operation.folded_norm < 0 ? 0 : norm_offsets_[operation.folded_norm];
  for (int o = 0; o < c.channels_out; o++) {
    const int group = o / c.group_outputs(), place = o % c.group_outputs();
    double folded_shift = 0;
    for (int i = 0; i < c.group_inputs(); i++) {
      const float scale = operation.folded_norm < 0 ? 1 : scale_[norm + group * c.group_inputs() + i];
      double sum = 0;
      for (int t = 0; t < c.taps(); t++) {
        const float weight = weights[((size_t)o * c.group_inputs() + i) * c.taps() + t];
        sum += weight;
        packed[((size_t)(group * c.group_inputs() + i) * c.taps() + t) * c.group_outputs() + place] = weight * scale;
      }
      if (operation.folded_norm >= 0) folded_shift += sum * shift_[norm + group * c.group_inputs() + i];
    }
    bias[o] = (float)folded_shift;
  }
  const auto pair_weights = operation.kernels.pair_weights;
  if (in_training && pair_weights) pair_weights(c.channels_in, (size_t)c.taps() * c.channels_out, packed);
}

// Orders a convolution's weights for the kernel of the input's gradient: inputs and outputs swapped, taps reversed.
void Trainer::pack_transposed_weights(const Operation& operation) {
  const Convolution c = operation.kernels.shape;
  const float* weights = settings_.values + operation.weight_offset;
  float* transposed = &transposed_[weight_offsets_[index_of(operation)]];
  for (int o = 0; o < c.channels_out; o++)
    for (int i = 0; i < c.group_inputs(); i++)
      for (int t = 0; t < c.taps(); t++)
        transposed[((size_t)o * c.taps() + c.taps() - 1 - t) * c.group_inputs() + i] = *weights++;
  const auto pair_weights = operation.kernels.pair_weights;
  if (pair_weights) pair_weights(c.channels_out, (size_t)c.taps() * c.channels_in, transposed);
}

void Trainer::use_running_statistics(const float* values) {
  for (int n = 0; n < network_.norm_count; n++) {
    const int count = channels(n);
    const float* own = values + network_.norms[n].value_offset;
    for (int c = 0; c < count; c++) {
      const size_t at = norm_offsets_[n] + c;
      scale_[at] = (float)(own[c] / std::sqrt(own[3 * count + c] + norm_epsilon));
      shift_[at] = own[count + c] - own[2 * count + c] * scale_[at];
    }
  }
}

// Computes the statistics of the batch from the sums of all parts, and updates the running statistics.
void Trainer::finish_norm_statistics(int norm, int64_t images) {
  const int count = channels(norm);
  const double places = (double)images * shape(network_.norms[norm].tensor).plane();
  float* own = settings_.values + network_.norms[norm].value_offset;
  const size_t parts = std::min((images + lanes - 1) / lanes, max_parts);
  for (int c = 0; c < count; c++) {
    const size_t at = norm_offsets_[norm] + c;
    double sum = 0, square = 0;
    for (size_t p = 0; p < parts; p++) {
      sum += partial_sums_[p].forward_sums[2 * at];
      square += partial_sums_[p].forward_sums[2 * at + 1];
    }
    const double distance = sum / places, mean = centre_[at] + distance;
    // std::max would lose NaN.
    double variance = square / places - distance * distance;
    if (variance < 0) variance = 0;
    const double inverse = 1 / std::sqrt(variance + norm_epsilon), unbiased = places > 1 ? places / (places - 1) : 1;
    mean_[at] = (float)mean;
    inverse_std_[at] = (float)inverse;
    scale_[at] = (float)(own[c] * inverse);
    shift_[at] = (float)(own[count + c] - mean * own[c] * inverse);
    own[2 * count + c] += (float)(norm_momentum * (mean - own[2 * count + c]));
    own[3 * count + c] += (float)(norm_momentum * (variance * unbiased - own[3 * count + c]));
  }
}

// Computes the sums of the backward pass of a folded batch norm from the convolution's weight gradient, without reading the
// tensor. The gradient that arrives at the norm is the convolution's output gradient spread by its weights, so its products
// with the tensor are those of the weights with their gradient.
void Trainer::norm_sums_from_weight_gradient(const Operation& operation) {
  const Convolution c = operation.kernels.shape;
  const size_t index = index_of(operation), norm = norm_offsets_[operation.folded_norm], bias = bias_offsets_[index];
  for (PartialSums& part : partial_sums_) {
    const float* weight = settings_.values + operation.weight_offset;
    const float* gradient = &part.weight_gradient[weight_offsets_[index]];
    for (int o = 0; o < c.channels_out; o++)
      for (int i = 0; i < c.group_inputs(); i++) {
        const size_t at = norm + o / c.group_outputs() * c.group_inputs() + i;
        float spread = 0, product = 0;
        for (int t = 0; t < c.taps(); t++, weight++, gradient++) spread += *weight, product += *weight * *gradient;
        const float sum = spread * part.bias_gradient[bias + o];
        part.backward_sums[2 * at] += sum;
        part.backward_sums[2 * at + 1] += product - mean_[at] * sum;
      }
  }
}

// Computes from the sums of all parts the gradients of scale and shift, and the map of `NormGradient`.
void Trainer::finish_backward_sums(int norm, int64_t images) {
  const int count = channels(norm);
  const double places = (double)images * shape(network_.norms[norm].tensor).plane();
  const float* own = settings_.values + network_.norms[norm].value_offset;
  float* result = &gradient_[network_.norms[norm].value_offset];
  const size_t parts = std::min((images + lanes - 1) / lanes, max_parts);
  for (int c = 0; c < count; c++) {
    const size_t at = norm_offsets_[norm] + c;
    double sum = 0, product = 0;
    for (size_t p = 0; p < parts; p++) {
      sum += partial_sums_[p].backward_sums[2 * at];
      product += partial_sums_[p].backward_sums[2 * at + 1];
    }
    const double inverse = inverse_std_[at], gradient_scale = own[c] * inverse;
    const double value_scale = -gradient_scale * inverse * inverse * product / places;
    result[c] = (float)(product * inverse);
    result[count + c] = (float)sum;
    gradient_scale_[at] = (float)gradient_scale;
    value_scale_[at] = (float)value_scale;
    gradient_offset_[at] = (float)(-gradient_scale * sum / places - value_scale * mean_[at]);
  }
}

// Adds up the weight gradients of all parts, and of all convolutions that share weights.
void Trainer::reduce_gradients() {
  for (int s = 0; s < network_.value_range_count; s++) {
    const ValueRange& range = network_.value_ranges[s];
    if (range.role == ValueRole::decayed) std::fill_n(&gradient_[range.begin], range.end - range.begin, 0.0f);
  }
  for (int o = 0; o < network_.operation_count; o++)
    if (network_.operations[o].kind == Kind::convolution) reduce_weight_gradient(network_.operations[o]);
}

// Adds a convolution's gradient to that of its weights. The sums are of products with the tensor before a folded batch norm,
// so the norm's scale and shift are applied here.
void Trainer::reduce_weight_gradient(const Operation& operation) {
  const Convolution c = operation.kernels.shape;
  const size_t index = index_of(operation);
  std::vector<float> sums(c.weight_count()), bias_gradient(c.channels_out);
  for (const PartialSums& part : partial_sums_) {
    const float* own = &part.weight_gradient[weight_offsets_[index]];
    for (size_t i = 0; i < c.weight_count(); i++) sums[i] += own[i];
    for (int k = 0; k < c.channels_out; k++) bias_gradient[k] += part.bias_gradient[bias_offsets_[index] + k];
  }
  float* result = &gradient_[operation.weight_offset];
  for (int k = 0; k < c.channels_out; k++)
    for (int i = 0; i < c.group_inputs(); i++) {
      const size_t from = ((size_t)k * c.group_inputs() + i) * c.taps();
      float scale = 1, shift = 0;
      if (operation.folded_norm >= 0) {
        const size_t at = norm_offsets_[operation.folded_norm] + k / c.group_outputs() * c.group_inputs() + i;
        scale = scale_[at], shift = shift_[at] * bias_gradient[k];
      }
      for (int t = 0; t < c.taps(); t++) result[from + t] += scale * sums[from + t] + shift;
    }
}

void Trainer::update_values(double rate, int64_t steps_before) {
  for (int s = 0; s < network_.value_range_count; s++) {
    const ValueRange& range = network_.value_ranges[s];
    if (range.role == ValueRole::statistic) continue;
    const double decay = range.role == ValueRole::decayed ? settings_.weight_decay : 0;
    const size_t at = range.begin, count = range.end - at;
    if (settings_.second_moment)
      adamw(settings_.values + at, settings_.momentum + at, settings_.second_moment + at, &gradient_[at], count, rate, decay,
            settings_.momentum_decay, steps_before + 1);
    else
      nesterov(settings_.values + at, settings_.momentum + at, &gradient_[at], count, (float)rate, (float)decay,
               (float)settings_.momentum_decay);
  }
}

void Trainer::update_average(double share) {
  if (!settings_.average) return;
  for (size_t i = 0; i < network_.value_count; i++)
    settings_.average[i] += (float)share * (settings_.values[i] - settings_.average[i]);
}

// Returns the mean of the teachers' probabilities of a group at the temperature. They see the same augmented pixels.
const Vector* Trainer::soft_targets(Group& group) {
  if (teachers_.empty()) return nullptr;
  const int classes = shape(network_.tensor_count - 1).channels, thread = (int)(&group.scratch - scratch_.data());
  Vector *input = group.scratch.teacher.get(), *logits = input + shape(0).vectors(), *targets = logits + classes;
  std::fill_n(targets, classes, Vector{});
  for (const TeacherNetwork& teacher : teachers_) {
    for (int c = 0; c < shape(0).channels; c++)
      for (size_t i = c * shape(0).pitch(); i < (c + 1) * shape(0).pitch(); i++)
        input[i] = (float)teacher.scale[c] * group.tensors[i] + (float)teacher.shift[c];
    const Status status = teacher.logits(teacher.trainer, thread, group.count, input, logits);
    if (status == out_of_memory) throw std::bad_alloc();
    if (status != done) throw std::runtime_error("a teacher's network failed");
    for (int l = 0; l < group.count; l++)
      softmax_at_temperature((const float*)logits + l, classes, settings_.temperature,
                             [&](int k, double probability) { targets[k][l] += (float)(probability / teachers_.size()); });
  }
  return targets;
}

float Trainer::weight_of(int64_t image) const {
  return settings_.class_weights ? settings_.class_weights[settings_.labels[image]] : 1;
}

// Returns the labels of the image at a place of a batch; their shares in its loss are its shares times their weights.
MixedLabel Trainer::label_of(const TrainingBatch& batch, int64_t place) const {
  const int64_t own = batch.indices[place];
  if (!batch.shares) return {settings_.labels[own], settings_.labels[own], weight_of(own), 0};
  const int64_t other = batch.indices[(place + 1) % batch.count];
  const double share = batch.shares[place];
  return {settings_.labels[own], settings_.labels[other], share * weight_of(own), (1 - share) * weight_of(other)};
}

// Computes the loss of a group after its forward pass, and the gradient of its logits.
LossSums Trainer::compute_loss(const Batch& batch, Group& group) {
  const int last = network_.tensor_count - 1;
  MixedLabel labels[lanes];
  float weights[lanes];
  for (int l = 0; l < group.count; l++) {
    labels[l] = label_of(batch, group.first + l);
    const double weight = labels[l].own_share + labels[l].other_share;
    labels[l].own_share /= weight, labels[l].other_share /= weight;
    weights[l] = (float)weight;
  }
  const SoftTargets soft{settings_.temperature, settings_.soft_weight, soft_targets(group)};
  return loss_and_gradient(tensor(group, last), shape(last).channels, labels, weights, group.count,
                           (float)settings_.smoothing, 1.0f / batch.count, soft, gradient(group, last));
}

void Trainer::train_batch(const TrainingBatch& trained, double rate, double average_share, int64_t step,
                          int64_t steps_before) {
  const Batch batch{trained, settings_.pixels, step};
  const int64_t count = trained.count;
  allocate(batch.groups());
  for (PartialSums& part : partial_sums_) {
    std::fill_n(part.weight_gradient.get(), weight_offsets_.back(), 0.0f);
    std::fill_n(part.bias_gradient.get(), bias_offsets_.back(), 0.0f);
    std::fill_n(part.backward_sums.get(), 2 * norm_offsets_.back(), 0.0f);
    std::fill_n(part.forward_sums.get(), 2 * norm_offsets_.back(), 0.0f);
    part.loss = {};
  }
  for (int n = 0; n < network_.norm_count; n++)
    std::copy_n(settings_.values + network_.norms[n].value_offset + 2 * channels(n), channels(n),
                &centre_[norm_offsets_[n]]);
  std::vector<int> barriers;  // convolutions behind which all threads synchronise, for the statistics of a batch norm
  for (int o = 0; o < network_.operation_count; o++) {
    if (network_.operations[o].norm >= 0 && network_.operations[o].kind == Kind::convolution) barriers.push_back(o);
    if (network_.operations[o].kind == Kind::convolution) pack_transposed_weights(network_.operations[o]);
  }
  const auto pack_between = [&](int begin, int end) {
    for (int o = begin; o < end; o++) {
      const Operation& operation = network_.operations[o];
      if (operation.kind == Kind::convolution) pack_weights(operation, settings_.values, true);
    }
  };
  int begin = 0;
  for (int barrier : barriers) {
    pack_between(begin, barrier + 1);
    for_groups(batch, [&](Group& group) {
      if (begin == 0) load(batch, group);
      run_forward(batch, group, begin, barrier + 1);
    });
    finish_norm_statistics(network_.operations[barrier].norm, count);
    begin = barrier + 1;
  }
  int end = network_.operation_count;
  pack_between(begin, end);
  for_groups(batch, [&](Group& group) {
    if (begin == 0) load(batch, group);
    run_forward(batch, group, begin, end);
    const LossSums loss = compute_loss(batch, group);
    group.sums->loss.loss += loss.loss;
    group.sums->loss.correct += loss.correct;
    for (BackwardStep step : backward_[0].steps) run_backward(batch, group, step);
  });
  for (size_t p = 1; p < backward_.size(); p++) {
    const BackwardPhase& before = backward_[p - 1];
    if (before.folded_into >= 0) norm_sums_from_weight_gradient(network_.operations[before.folded_into]);
    finish_backward_sums(before.norm, count);
    for_groups(batch, [&](Group& group) {
      for (BackwardStep step : backward_[p].steps) run_backward(batch, group, step);
    });
  }
  reduce_gradients();
  update_values(rate, steps_before);
  update_average(average_share);
  for (const PartialSums& part : partial_sums_) totals_.loss += part.loss.loss, totals_.correct += part.loss.correct;
  totals_.images += count;
}

void Trainer::logits(const uint8_t* pixels, int64_t count, const float* values, float* result) {
  use_running_statistics(values);
  for (int o = 0; o < network_.operation_count; o++)
    if (network_.operations[o].kind == Kind::convolution) pack_weights(network_.operations[o], values, false);
  Batch batch{};
  batch.pixels = pixels, batch.count = count;
  const int last = network_.tensor_count - 1, classes = shape(last).channels;
  thread_pool_.parallel_for((int)batch.groups(), [&](int g, int thread) {
    Scratch& scratch = scratch_[thread];
    const int64_t first = (int64_t)g * lanes;
    Group group{first, (int)std::min<int64_t>(lanes, count - first), scratch.tensors.get(), nullptr, scratch, nullptr,
                Mode::evaluation};
    load(batch, group);
    run_forward(batch, group, 0, network_.operation_count);
    for (int l = 0; l < group.count; l++)
      for (int k = 0; k < classes; k++) result[(first + l) * classes + k] = tensor(group, last)[k][l];
  });
}

void Trainer::add_teacher(TeacherNetwork teacher) { teachers_.push_back(teacher); }

// Prepares the network to compute logits with its running statistics, in the arithmetic of training.
void Trainer::prepare_teacher() {
  use_running_statistics(settings_.values);
  for (int o = 0; o < network_.operation_count; o++) {
    const Operation& operation = network_.operations[o];
    if (operation.kind == Kind::convolution) pack_weights(operation, settings_.values, true);
  }
}

void Trainer::teacher_logits(int thread, int count, const Vector* input, Vector* logits) {
  Scratch& scratch = scratch_[thread];
  Group group{0, count, scratch.tensors.get(), nullptr, scratch, nullptr, Mode::teacher};
  std::copy_n(input, shape(0).vectors(), group.tensors);
  run_forward({}, group, 0, network_.operation_count);
  const int last = network_.tensor_count - 1;
  std::copy_n(tensor(group, last), shape(last).channels, logits);
}

TrainerTotals Trainer::take_totals() {
  const TrainerTotals totals = totals_;
  totals_ = {};
  return totals;
}

namespace {

thread_local std::string last_error;  // of this thread's last function that failed

template <class Work>
Status guarded(const Work& work) noexcept {
  try {
    work();
    return done;
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
    } catch (...) {
      return out_of_memory;
    }
  } catch (...) {
    last_error.clear();
  }
  return failed;
}

}  // namespace

extern "C" {

// Returns the text of this thread's last exception.
const char* kilonet_error() { return last_error.c_str(); }

// Gives the sizes of the structures that Python mirrors.
void kilonet_sizes(int64_t* sizes) {
  const size_t found[] = {sizeof(TrainerSettings), sizeof(TrainingBatch), sizeof(TeacherNetwork), sizeof(TrainerTotals)};
  std::copy(std::begin(found), std::end(found), sizes);
}

Status kilonet_create_trainer(const TrainerSettings* settings, Trainer** trainer) {
  return guarded([&] { *trainer = new Trainer(network, *settings); });
}

void kilonet_destroy_trainer(Trainer* trainer) { delete trainer; }

Status kilonet_train_batch(Trainer* trainer, const TrainingBatch* batch, double rate, double average_share, int64_t step,
                           int64_t steps_before) {
  return guarded([&] { trainer->train_batch(*batch, rate, average_share, step, steps_before); });
}

Status kilonet_logits(Trainer* trainer, const uint8_t* pixels, int64_t count, const float* values, float* result) {
  return guarded([&] { trainer->logits(pixels, count, values, result); });
}

Status kilonet_add_teacher(Trainer* trainer, const TeacherNetwork* teacher) {
  return guarded([&] { trainer->add_teacher(*teacher); });
}

Status kilonet_prepare_teacher(Trainer* trainer) {
  return guarded([&] { trainer->prepare_teacher(); });
}

Status kilonet_teacher_logits(void* trainer, int thread, int count, const Vector* input, Vector* logits) {
  return guarded([&] { ((Trainer*)trainer)->teacher_logits(thread, count, input, logits); });
}

Status kilonet_take_totals(Trainer* trainer, TrainerTotals* totals) {
  return guarded([&] { *totals = trainer->take_totals(); });
}
}
