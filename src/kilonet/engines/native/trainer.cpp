#include "trainer.hpp"

namespace {

constexpr int64_t most_parts = 64;
constexpr double norm_epsilon = 1e-5, norm_momentum = 0.1, second_decay = 0.999, adam_epsilon = 1e-8;
const float no_map[6] = {1, 0, 0, 0, 1, 0};

void nesterov(float* __restrict values, float* __restrict momentum, const float* __restrict gradient, size_t count, float rate,
              float decay, float beta) {
  for (size_t i = 0; i < count; i++) {
    const float slope = gradient[i] + decay * values[i];
    momentum[i] = beta * momentum[i] + slope;
    values[i] -= rate * (slope + beta * momentum[i]);
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

Mask Trainer::Group::present() const {
  Mask mask;
  for (int l = 0; l < lanes; l++) mask[l] = l < count ? -1 : 0;
  return mask;
}

Trainer::Trainer(const Network& network, const Settings& settings)
    : network_(network), settings_(settings), threads_((int)settings.threads), scratch_(settings.threads) {
  size_t vectors = 0, gradients = 0, biases = 0, norms = 0, widest = 0, padded = 0, pairs = 0, most = 0, weights = 0;
  borders_.resize(network.tensor_count);
  for (int o = 0; o < network.operation_count; o++) {
    const Operation& operation = network.operations[o];
    bias_.push_back(biases);
    weights_.push_back(weights);
    if (operation.kind != Kind::convolution) continue;
    const Convolution& c = operation.kernels.shape;
    biases += c.channels_out;
    weights += c.weights();
    most = std::max(most, c.weights());
    borders_[operation.output] = c.border();
    padded = std::max(padded, c.channels_in * c.input_pitch());
    if (bfloat16) pairs = std::max(pairs, c.pair_vectors());
  }
  for (int t = 0; t < network.tensor_count; t++) {
    const Shape& shape = network.tensors[t];
    offsets_.push_back(vectors);
    gradient_offsets_.push_back(gradients);
    vectors += shape.vectors();
    gradients += shape.channels * pitch_of((size_t)shape.rows * (shape.columns + 2 * borders_[t]));
    widest = std::max(widest, (size_t)shape.channels);
  }
  offsets_.push_back(vectors);
  gradient_offsets_.push_back(gradients);
  bias_.push_back(biases);
  weights_.push_back(weights);
  for (int n = 0; n < network.norm_count; n++) {
    norm_offsets_.push_back(norms);
    norms += channels(n);
  }
  norm_offsets_.push_back(norms);
  biases_.resize(biases);
  for (auto* values : {&scale_, &shift_, &mean_, &inverse_, &centre_, &slope_, &offset_, &incline_}) values->resize(norms);
  for (auto* values : {&packed_, &turned_}) values->resize(weights);
  gradient_.resize(network.value_count);
  for (Scratch& scratch : scratch_)
    scratch = {zeros<Vector>(padded), zeros<Vector>(pairs), zeros<Vector>(2 * widest), zeros<Vector>(most), zeros<Vector>(vectors),
               zeros<Vector>(shape(0).vectors() + 2 * shape(network.tensor_count - 1).channels),
               zeros<uint8_t>(frame_bytes(network.tensors[0]))};
  plan_backward();
}

void Trainer::plan_backward() {
  backward_.emplace_back();
  const auto meet = [&](int norm, int folded_into) {
    backward_.back().norm = norm;
    backward_.back().folded_into = folded_into;
    backward_.emplace_back();
  };
  std::vector<bool> applied(network_.norm_count);
  for (int o = network_.operation_count - 1; o >= 0; o--) {
    const Operation& operation = network_.operations[o];
    if (operation.kind == Kind::norm) {
      backward_.back().moves.push_back({o, Step::whole});
      applied[operation.norm] = true;
      meet(operation.norm, -1);
    } else if (operation.kind == Kind::convolution) {
      if (operation.norm >= 0 && applied[operation.norm]) backward_.back().moves.push_back({o, Step::open});
      backward_.back().moves.push_back({o, Step::weights});
      if (operation.folded >= 0) meet(operation.folded, o);
      if (operation.backward) backward_.back().moves.push_back({o, Step::input});
    } else if (operation.backward) {
      backward_.back().moves.push_back({o, Step::whole});
    }
  }
}

void Trainer::reserve(int64_t groups) {
  const size_t parts = std::min(groups, most_parts);
  for (size_t p = parts_.size(); p < parts; p++)
    parts_.push_back({zeros<float>(weights_.back()), zeros<float>(bias_.back()), zeros<float>(2 * norm_offsets_.back()),
                      zeros<float>(2 * norm_offsets_.back()), {}});
  if (groups <= groups_) return;
  tensors_.reset(), gradients_.reset();
  tensors_ = zeros<Vector>(groups * offsets_.back());
  gradients_ = zeros<Vector>(groups * gradient_offsets_.back());
  groups_ = groups;
}

void Trainer::for_groups(const Batch& batch, const std::function<void(Group&)>& work) {
  const int64_t groups = batch.groups(), parts = std::min(groups, most_parts);
  threads_.share((int)parts, [&](int p, int thread) {
    for (int64_t g = groups * p / parts; g < groups * (p + 1) / parts; g++) {
      Group group{g * lanes, (int)std::min<int64_t>(lanes, batch.count - g * lanes), tensors_.get() + g * offsets_.back(),
                  gradients_.get() + g * gradient_offsets_.back(), scratch_[thread], &parts_[p], Mode::training};
      work(group);
    }
  });
}

void Trainer::load(const Batch& batch, Group& group) {
  Pictures pictures;
  const size_t bytes = shape(0).values();
  for (int l = 0; l < lanes; l++) {
    const int64_t image = group.first + l;
    const bool there = l < group.count;
    pictures.pixels[l] = there ? batch.pixels + (batch.indices ? batch.indices[image] : image) * bytes : nullptr;
    pictures.transforms[l] = there && batch.transforms ? batch.transforms + 6 * image : no_map;
  }
  const double scale = 1 / (255 * settings_.std);
  resample(shape(0), pictures, (float)scale, (float)(-255 * settings_.mean * scale), group.scratch.frames.get(), group.tensors);
}

void Trainer::run_forward(const Batch& batch, Group& group, int begin, int end) {
  for (int o = begin; o < end; o++) {
    const Operation& operation = network_.operations[o];
    const Vector* input = tensor(group, operation.input);
    Vector* output = tensor(group, operation.output);
    const Shape from = shape(operation.input), to = shape(operation.output);
    switch (operation.kind) {
      case Kind::convolution: convolve(operation, group); break;
      case Kind::norm: apply(batch, operation, group); break;
      case Kind::max_pool: max_pool(from, to, operation.size, input, output); break;
      case Kind::average_pool: average_pool(from, input, output); break;
    }
  }
}

void Trainer::run_backward(const Batch& batch, Group& group, Move move) {
  const Operation& operation = network_.operations[move.operation];
  const Shape from = shape(operation.input), to = shape(operation.output);
  const Vector* down = gradient(group, operation.output);
  Vector* result = gradient(group, operation.input);
  if (move.step == Step::open) open_gradient(operation, group);
  if (move.step == Step::weights) find_weight_gradient(operation, group);
  if (move.step == Step::input) find_input_gradient(operation, group);
  if (move.step != Step::whole) return;
  if (operation.kind == Kind::norm) apply_back(batch, operation, group);
  if (operation.kind == Kind::max_pool)
    max_pool_gradient(from, to, operation.size, tensor(group, operation.input), tensor(group, operation.output), down, result);
  if (operation.kind == Kind::average_pool) average_pool_gradient(from, down, result);
}

const Vector* Trainer::padded_input(const Operation& operation, Group& group) {
  const Vector* input = tensor(group, operation.input);
  if (!operation.kernels.shape.padding) return input;
  const Convolution& convolution = operation.kernels.shape;
  std::fill_n(group.scratch.padded.get(), convolution.channels_in * convolution.input_pitch(), Vector{});
  pad(shape(operation.input), input, convolution.padding, group.scratch.padded.get());
  return group.scratch.padded.get();
}

void Trainer::convolve(const Operation& operation, Group& group) {
  const int index = (int)index_of(operation);
  Vector* sums = group.scratch.sums.get();
  std::fill_n(sums, 2 * shape(operation.output).channels, Vector{});
  const float* centre = operation.norm < 0 ? nullptr : &centre_[norm_offsets_[operation.norm]];
  const auto forward = group.mode == Mode::exact ? operation.kernels.exact_forward : operation.kernels.forward;
  forward({padded_input(operation, group), &packed_[weights_[index]], group.scratch.pairs.get(), &biases_[bias_[index]],
           tensor(group, operation.output), group.present(), centre, sums});
  if (operation.norm < 0 || !group.training()) return;
  float* totals = &group.part->forward_sums[2 * norm_offsets_[operation.norm]];
  for (int c = 0; c < 2 * channels(operation.norm); c++) totals[c] += sum_of_lanes(sums[c]);
}

void Trainer::open_gradient(const Operation& operation, Group& group) {
  float* totals = &group.part->totals[bias_[index_of(operation)]];
  norm_gradient(shape(operation.output), tensor(group, operation.output), norm_gradient_of(operation.norm),
                borders_[operation.output], gradient(group, operation.output), totals);
}

void Trainer::find_weight_gradient(const Operation& operation, Group& group) {
  const Vector* down = gradient(group, operation.output);
  if (operation.norm < 0) {
    // A max-pool hands every gradient to one place, so that the sums are there to be had from fewer vectors.
    const Operation* next = &operation + 1;
    const bool pooled = next < network_.operations + network_.operation_count && next->kind == Kind::max_pool;
    const int number = pooled ? next->output : operation.output;
    add_totals(shape(number), gradient(group, number), &group.part->totals[bias_[index_of(operation)]]);
  }
  const size_t count = operation.kernels.shape.weights();
  Vector* sums = group.scratch.weight_sums.get();
  std::fill_n(sums, count, Vector{});
  operation.kernels.weight_gradient(padded_input(operation, group), down, group.scratch.pairs.get(), sums);
  float* result = &group.part->gradient[weights_[index_of(operation)]];
  for (size_t i = 0; i < count; i++) result[i] += sum_of_lanes(sums[i]);
}

void Trainer::find_input_gradient(const Operation& operation, Group& group) {
  const int input = operation.input, channels = shape(input).channels;
  Backward pass{gradient(group, operation.output), &turned_[weights_[index_of(operation)]], group.scratch.pairs.get(),
                gradient(group, input), operation.adds};
  if (operation.folded < 0) return operation.kernels.input_gradient(pass);
  pass.norm = norm_gradient_of(operation.folded);
  pass.values = tensor(group, input);
  pass.border = borders_[input];
  pass.pitch = pitch_of((size_t)shape(input).rows * (shape(input).columns + 2 * pass.border));
  pass.totals = group.scratch.sums.get();
  std::fill_n(pass.totals, channels, Vector{});
  operation.kernels.input_gradient(pass);
  // The operation before is the convolution whose output this one reads.
  float* totals = &group.part->totals[bias_[index_of(operation) - 1]];
  for (int c = 0; c < channels; c++) totals[c] += sum_of_lanes(pass.totals[c]);
}

Dropout Trainer::dropout(const Batch& batch, const Group& group, int operation) const {
  Dropout dropout;
  dropout.active = group.training() && network_.operations[operation].drops;
  if (!dropout.active) return dropout;
  dropout.below = (uint32_t)(settings_.dropout * 4294967296.0);
  dropout.scale = (float)(1 / (1 - settings_.dropout));
  uint32_t key = scrambled((uint32_t)settings_.seed) ^ (uint32_t)(settings_.seed >> 32);
  for (uint32_t part : {(uint32_t)batch.step, (uint32_t)(batch.step >> 32), (uint32_t)operation}) key = scrambled(key ^ part) + part;
  for (int l = 0; l < lanes; l++) dropout.keys[l] = scrambled(key + (uint32_t)(group.first + l) * 0x85ebca6bu);
  return dropout;
}

void Trainer::apply(const Batch& batch, const Operation& operation, Group& group) {
  const size_t norm = norm_offsets_[operation.norm];
  apply_norm(shape(operation.output), tensor(group, operation.input), {&scale_[norm], &shift_[norm]},
             dropout(batch, group, (int)index_of(operation)),
             operation.residual < 0 ? nullptr : tensor(group, operation.residual), tensor(group, operation.output));
}

void Trainer::apply_back(const Batch& batch, const Operation& operation, Group& group) {
  const Vector* down = gradient(group, operation.output);
  const Shape size = shape(operation.output);
  if (operation.residual >= 0) std::copy_n(down, size.vectors(), gradient(group, operation.residual));
  const size_t norm = norm_offsets_[operation.norm];
  apply_norm_gradient(size, down, tensor(group, operation.input), &mean_[norm],
                      dropout(batch, group, (int)index_of(operation)), borders_[operation.input],
                      gradient(group, operation.input), &group.part->backward_sums[2 * norm]);
}

// Orders a convolution's weights for the forward kernel and folds the batch norm before it into them.
void Trainer::pack(const Operation& operation, const float* values, bool paired) {
  const Convolution& c = operation.kernels.shape;
  const float* weights = values + operation.weights;
  float* packed = &packed_[weights_[index_of(operation)]];
  float* bias = &biases_[bias_[index_of(operation)]];
  const size_t norm = operation.folded < 0 ? 0 : norm_offsets_[operation.folded];
  for (int o = 0; o < c.channels_out; o++) {
    const int group = o / c.outputs(), place = o % c.outputs();
    double moved = 0;
    for (int i = 0; i < c.inputs(); i++) {
      const float scale = operation.folded < 0 ? 1 : scale_[norm + group * c.inputs() + i];
      double sum = 0;
      for (int t = 0; t < c.taps(); t++) {
        const float weight = weights[((size_t)o * c.inputs() + i) * c.taps() + t];
        sum += weight;
        packed[((size_t)(group * c.inputs() + i) * c.taps() + t) * c.outputs() + place] = weight * scale;
      }
      if (operation.folded >= 0) moved += sum * shift_[norm + group * c.inputs() + i];
    }
    bias[o] = (float)moved;
  }
  if (paired) pair_rows(c.channels_in, (size_t)c.taps() * c.channels_out, packed);
}

// Orders a convolution's weights for the kernel of the input's gradient: inputs and outputs swapped, taps reversed.
void Trainer::pack_turned(const Operation& operation) {
  const Convolution& c = operation.kernels.shape;
  const float* weights = settings_.values + operation.weights;
  float* turned = &turned_[weights_[index_of(operation)]];
  for (int o = 0; o < c.channels_out; o++)
    for (int i = 0; i < c.inputs(); i++)
      for (int t = 0; t < c.taps(); t++)
        turned[((size_t)o * c.taps() + c.taps() - 1 - t) * c.inputs() + i] = *weights++;
  if (c.paired()) pair_rows(c.channels_out, (size_t)c.taps() * c.channels_in, turned);
}

void Trainer::use_running_statistics(const float* values) {
  for (int n = 0; n < network_.norm_count; n++) {
    const int count = channels(n);
    const float* own = values + network_.norms[n].values;
    for (int c = 0; c < count; c++) {
      const size_t at = norm_offsets_[n] + c;
      scale_[at] = (float)(own[c] / std::sqrt(own[3 * count + c] + norm_epsilon));
      shift_[at] = own[count + c] - own[2 * count + c] * scale_[at];
    }
  }
}

// Turns the sums of all parts into the statistics of the batch, and moves the running ones.
void Trainer::finish_statistics(int norm, int64_t images) {
  const int count = channels(norm);
  const double places = (double)images * shape(network_.norms[norm].tensor).plane();
  float* own = settings_.values + network_.norms[norm].values;
  const size_t parts = std::min((images + lanes - 1) / lanes, most_parts);
  for (int c = 0; c < count; c++) {
    const size_t at = norm_offsets_[norm] + c;
    double sum = 0, square = 0;
    for (size_t p = 0; p < parts; p++) {
      sum += parts_[p].forward_sums[2 * at];
      square += parts_[p].forward_sums[2 * at + 1];
    }
    const double distance = sum / places, mean = centre_[at] + distance;
    // Not a maximum: a NaN must stay one.
    double variance = square / places - distance * distance;
    if (variance < 0) variance = 0;
    const double inverse = 1 / std::sqrt(variance + norm_epsilon), unbiased = places > 1 ? places / (places - 1) : 1;
    mean_[at] = (float)mean;
    inverse_[at] = (float)inverse;
    scale_[at] = (float)(own[c] * inverse);
    shift_[at] = (float)(own[count + c] - mean * own[c] * inverse);
    own[2 * count + c] += (float)(norm_momentum * (mean - own[2 * count + c]));
    own[3 * count + c] += (float)(norm_momentum * (variance * unbiased - own[3 * count + c]));
  }
}

// The sums of a batch norm's backward pass without a look at its tensor: the gradient that arrives there is the
// convolution's own, spread by its weights, so its products with the tensor are the weights' with their gradient.
void Trainer::take_sums_from_weights(const Operation& operation) {
  const Convolution& c = operation.kernels.shape;
  const size_t index = index_of(operation), norm = norm_offsets_[operation.folded], bias = bias_[index];
  for (Part& part : parts_) {
    const float *weight = settings_.values + operation.weights, *slope = &part.gradient[weights_[index]];
    for (int o = 0; o < c.channels_out; o++)
      for (int i = 0; i < c.inputs(); i++) {
        const size_t at = norm + o / c.outputs() * c.inputs() + i;
        float spread = 0, product = 0;
        for (int t = 0; t < c.taps(); t++, weight++, slope++) spread += *weight, product += *weight * *slope;
        const float sum = spread * part.totals[bias + o];
        part.backward_sums[2 * at] += sum;
        part.backward_sums[2 * at + 1] += product - mean_[at] * sum;
      }
  }
}

// Turns the sums of all parts into the gradients of scale and shift and the map from output's to input's gradient.
void Trainer::finish_backward_sums(int norm, int64_t images) {
  const int count = channels(norm);
  const double places = (double)images * shape(network_.norms[norm].tensor).plane();
  const float* own = settings_.values + network_.norms[norm].values;
  float* result = &gradient_[network_.norms[norm].values];
  const size_t parts = std::min((images + lanes - 1) / lanes, most_parts);
  for (int c = 0; c < count; c++) {
    const size_t at = norm_offsets_[norm] + c;
    double sum = 0, product = 0;
    for (size_t p = 0; p < parts; p++) {
      sum += parts_[p].backward_sums[2 * at];
      product += parts_[p].backward_sums[2 * at + 1];
    }
    const double inverse = inverse_[at], slope = own[c] * inverse, incline = -slope * inverse * inverse * product / places;
    result[c] = (float)(product * inverse);
    result[count + c] = (float)sum;
    slope_[at] = (float)slope;
    incline_[at] = (float)incline;
    offset_[at] = (float)(-slope * sum / places - incline * mean_[at]);
  }
}

// Adds up the parts' gradients of convolution weights, and those of all places that share them.
void Trainer::finish_gradient() {
  for (int s = 0; s < network_.stretch_count; s++) {
    const Stretch& stretch = network_.stretches[s];
    if (stretch.role == Role::decayed) std::fill_n(&gradient_[stretch.begin], stretch.end - stretch.begin, 0.0f);
  }
  for (int o = 0; o < network_.operation_count; o++)
    if (network_.operations[o].kind == Kind::convolution) add_gradient(network_.operations[o]);
}

// Adds a convolution's gradient to its weights'; a folded batch norm's map is made good here.
void Trainer::add_gradient(const Operation& operation) {
  const Convolution& c = operation.kernels.shape;
  const size_t index = index_of(operation);
  std::vector<float> sums(c.weights()), totals(c.channels_out);
  for (const Part& part : parts_) {
    const float* own = &part.gradient[weights_[index]];
    for (size_t i = 0; i < c.weights(); i++) sums[i] += own[i];
    for (int k = 0; k < c.channels_out; k++) totals[k] += part.totals[bias_[index] + k];
  }
  float* result = &gradient_[operation.weights];
  for (int k = 0; k < c.channels_out; k++)
    for (int i = 0; i < c.inputs(); i++) {
      const size_t from = ((size_t)k * c.inputs() + i) * c.taps();
      float scale = 1, shift = 0;
      if (operation.folded >= 0) {
        const size_t at = norm_offsets_[operation.folded] + k / c.outputs() * c.inputs() + i;
        scale = scale_[at], shift = shift_[at] * totals[k];
      }
      for (int t = 0; t < c.taps(); t++) result[from + t] += scale * sums[from + t] + shift;
    }
}

void Trainer::update(double rate, int64_t steps_before) {
  for (int s = 0; s < network_.stretch_count; s++) {
    const Stretch& stretch = network_.stretches[s];
    if (stretch.role == Role::statistic) continue;
    const double decay = stretch.role == Role::decayed ? settings_.weight_decay : 0;
    const size_t at = stretch.begin, count = stretch.end - at;
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

// The teachers' probabilities of a group, averaged, at the temperature; they see the very pixels that it sees.
const Vector* Trainer::ask_teachers(Group& group) {
  if (teachers_.empty()) return nullptr;
  const int classes = shape(network_.tensor_count - 1).channels, thread = (int)(&group.scratch - scratch_.data());
  Vector *input = group.scratch.lesson.get(), *logits = input + shape(0).vectors(), *targets = logits + classes;
  std::fill_n(targets, classes, Vector{});
  for (const Teacher& teacher : teachers_) {
    for (size_t i = 0; i < shape(0).vectors(); i++) input[i] = (float)teacher.scale * group.tensors[i] + (float)teacher.shift;
    teacher.answer(teacher.trainer, thread, group.count, input, logits);
    for (int l = 0; l < group.count; l++)
      softened((const float*)logits + l, classes, settings_.temperature,
               [&](int k, double probability) { targets[k][l] += (float)(probability / teachers_.size()); });
  }
  return targets;
}

// Finds the loss of a group that has been run forward, and the gradient of its logits.
Score Trainer::judge(const Batch& batch, Group& group) {
  const int last = network_.tensor_count - 1;
  int64_t labels[lanes];
  for (int l = 0; l < group.count; l++) labels[l] = settings_.labels[batch.indices[group.first + l]];
  const Lesson lesson{settings_.temperature, settings_.soft_weight, ask_teachers(group)};
  return score(tensor(group, last), shape(last).channels, labels, group.count, (float)settings_.smoothing, 1.0f / batch.count,
               lesson, gradient(group, last));
}

void Trainer::step(const int64_t* indices, const float* transforms, int64_t count, double rate, double average_share,
                   int64_t step, int64_t steps_before) {
  const Batch batch{settings_.pixels, indices, transforms, count, step};
  reserve(batch.groups());
  for (Part& part : parts_) {
    std::fill_n(part.gradient.get(), weights_.back(), 0.0f);
    std::fill_n(part.totals.get(), bias_.back(), 0.0f);
    std::fill_n(part.backward_sums.get(), 2 * norm_offsets_.back(), 0.0f);
    std::fill_n(part.forward_sums.get(), 2 * norm_offsets_.back(), 0.0f);
    part.score = {};
  }
  for (int n = 0; n < network_.norm_count; n++)
    std::copy_n(settings_.values + network_.norms[n].values + 2 * channels(n), channels(n), &centre_[norm_offsets_[n]]);
  std::vector<int> barriers;  // the convolutions behind which, and before whose backward, all threads meet
  for (int o = 0; o < network_.operation_count; o++) {
    if (network_.operations[o].norm >= 0 && network_.operations[o].kind == Kind::convolution) barriers.push_back(o);
    if (network_.operations[o].kind == Kind::convolution) pack_turned(network_.operations[o]);
  }
  const auto pack_between = [&](int begin, int end) {
    for (int o = begin; o < end; o++)
      if (network_.operations[o].kind == Kind::convolution) pack(network_.operations[o], settings_.values, network_.operations[o].kernels.shape.paired());
  };
  int begin = 0;
  for (int barrier : barriers) {
    pack_between(begin, barrier + 1);
    for_groups(batch, [&](Group& group) {
      if (begin == 0) load(batch, group);
      run_forward(batch, group, begin, barrier + 1);
    });
    finish_statistics(network_.operations[barrier].norm, count);
    begin = barrier + 1;
  }
  int end = network_.operation_count;
  pack_between(begin, end);
  for_groups(batch, [&](Group& group) {
    if (begin == 0) load(batch, group);
    run_forward(batch, group, begin, end);
    const Score score = judge(batch, group);
    group.part->score.loss += score.loss;
    group.part->score.correct += score.correct;
    for (Move move : backward_[0].moves) run_backward(batch, group, move);
  });
  for (size_t p = 1; p < backward_.size(); p++) {
    const Phase& before = backward_[p - 1];
    if (before.folded_into >= 0) take_sums_from_weights(network_.operations[before.folded_into]);
    finish_backward_sums(before.norm, count);
    for_groups(batch, [&](Group& group) {
      for (Move move : backward_[p].moves) run_backward(batch, group, move);
    });
  }
  finish_gradient();
  update(rate, steps_before);
  update_average(average_share);
  for (const Part& part : parts_) totals_.loss += part.score.loss, totals_.correct += part.score.correct;
  totals_.images += count;
}

void Trainer::logits(const uint8_t* pixels, int64_t count, const float* values, float* result) {
  use_running_statistics(values);
  for (int o = 0; o < network_.operation_count; o++)
    if (network_.operations[o].kind == Kind::convolution) pack(network_.operations[o], values, false);
  const Batch batch{pixels, nullptr, nullptr, count, 0};
  const int last = network_.tensor_count - 1, classes = shape(last).channels;
  threads_.share((int)batch.groups(), [&](int g, int thread) {
    Scratch& scratch = scratch_[thread];
    const int64_t first = (int64_t)g * lanes;
    Group group{first, (int)std::min<int64_t>(lanes, count - first), scratch.tensors.get(), nullptr, scratch, nullptr,
                Mode::exact};
    load(batch, group);
    run_forward(batch, group, 0, network_.operation_count);
    for (int l = 0; l < group.count; l++)
      for (int k = 0; k < classes; k++) result[(first + l) * classes + k] = tensor(group, last)[k][l];
  });
}

void Trainer::learn_from(Teacher teacher) { teachers_.push_back(teacher); }

// Makes the network ready to answer with its running statistics, in the arithmetic of the training.
void Trainer::prepare_answers() {
  use_running_statistics(settings_.values);
  for (int o = 0; o < network_.operation_count; o++) {
    const Operation& operation = network_.operations[o];
    if (operation.kind == Kind::convolution) pack(operation, settings_.values, operation.kernels.shape.paired());
  }
}

void Trainer::answer(int thread, int count, const Vector* input, Vector* logits) {
  Scratch& scratch = scratch_[thread];
  Group group{0, count, scratch.tensors.get(), nullptr, scratch, nullptr, Mode::quick};
  std::copy_n(input, shape(0).vectors(), group.tensors);
  run_forward({}, group, 0, network_.operation_count);
  const int last = network_.tensor_count - 1;
  std::copy_n(tensor(group, last), shape(last).channels, logits);
}

Totals Trainer::take_totals() {
  const Totals totals = totals_;
  totals_ = {};
  return totals;
}

extern "C" {

Trainer* kilonet_open(const Settings* settings) { return new Trainer(network, *settings); }

void kilonet_close(Trainer* trainer) { delete trainer; }

void kilonet_step(Trainer* trainer, const int64_t* indices, const float* transforms, int64_t count, double rate,
                  double average_share, int64_t step, int64_t steps_before) {
  trainer->step(indices, transforms, count, rate, average_share, step, steps_before);
}

void kilonet_logits(Trainer* trainer, const uint8_t* pixels, int64_t count, const float* values, float* result) {
  trainer->logits(pixels, count, values, result);
}

void kilonet_learn_from(Trainer* trainer, const Teacher* teacher) { trainer->learn_from(*teacher); }

void kilonet_prepare_answers(Trainer* trainer) { trainer->prepare_answers(); }

void kilonet_answer(void* trainer, int thread, int count, const Vector* input, Vector* logits) {
  ((Trainer*)trainer)->answer(thread, count, input, logits);
}

void kilonet_take_totals(Trainer* trainer, Totals* totals) { *totals = trainer->take_totals(); }
}
