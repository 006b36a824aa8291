// Times every operation of a network in whole training steps on made images. Prints first the median microseconds of a
// step, then a line for each step of an operation: the operation, its kind, the size of its pool, the step (0 forward, then the
// parts of `BackwardPart`), floating-point operations and bytes an image, and the median microseconds of all threads together.
// Built by roofline.py with the generated network.cpp.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>

constexpr int steps_of_an_operation = 5;
static std::atomic<int64_t> nanoseconds[1024][steps_of_an_operation];

struct OperationTimer {
  int operation, step;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  ~OperationTimer() {
    const auto time = std::chrono::steady_clock::now() - start;
    nanoseconds[operation][step] += std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  }
};

#define KILONET_TIMED(operation, step) \
  OperationTimer timer { operation, step }

#include "trainer.cpp"

#include "network.cpp"

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

static size_t values_of(int tensor) { return network.tensors[tensor].values(); }

static double flops_of(const Operation& operation, int step) {
  if (operation.kind != Kind::convolution) return 0;
  const Convolution& c = operation.kernels.shape;
  const double pass = 2.0 * c.weight_count() * c.rows_out() * c.columns_out();
  if (step == 1) return operation.needs_input_gradient ? 2 * pass : pass;
  return step == 2 ? 0 : pass;
}

static double bytes_of(int tensor) {
  return (network.tensors[tensor].stored == Storage::float32 ? 4.0 : 2.0) * values_of(tensor);
}

// Returns the bytes of the tensors that a step reads and writes, each tensor once.
static double bytes_of(const Operation& operation, int step) {
  const double in = bytes_of(operation.input), out = bytes_of(operation.output);
  const bool residual = operation.accumulates_input_gradient;
  double bytes = in + out;
  if (operation.kind == Kind::norm) {
    // Forward it reads its input and the residual; backward its input and a gradient, for the sums.
    if (step == 0 && operation.residual >= 0) bytes += in;
  } else if (operation.kind == Kind::convolution) {
    // What arrives at the batch norm behind it, if that is an operation of its own, and at its max pooling, if it has one.
    const double arriving = bytes_of((&operation + (operation.norm >= 0))->output);
    // That and the ReLU's output are read, and the gradient before the ReLU is written.
    if (step == 2) bytes = arriving + 2 * out;
    // All at once: the same without the gradient between, and what the other two steps read and write.
    if (step == 1) bytes = arriving + out + (operation.needs_input_gradient ? 2 * in : in);
    // A folded batch norm reads the input again; a residual's gradient is added.
    if (step == 4) bytes += (operation.folded_norm >= 0 ? in : 0) + (residual ? out : 0);
  } else if (step > 0 && operation.kind == Kind::max_pool) {
    bytes = 2 * (in + out);
  }
  return bytes;
}

int main(int, char** arguments) {
  const int images = std::atoi(arguments[1]), threads = std::atoi(arguments[2]), rounds = std::atoi(arguments[3]);
  std::vector<uint8_t> pixels(images * values_of(0));
  std::vector<int64_t> labels(images), indices(images);
  std::vector<float> transforms(6 * images), values(network.value_count), momentum(values.size());
  const int classes = network.tensors[network.tensor_count - 1].channels;
  uint32_t word = 1;
  const auto drawn = [&] { return word = hash32(word + 0x9e3779b9u); };
  for (uint8_t& pixel : pixels) pixel = drawn() >> 24;
  for (int i = 0; i < images; i++) {
    labels[i] = drawn() % classes, indices[i] = i;
    // Turned a little, as training turns images.
    const float map[6] = {0.99f, -0.1f, 0.5f, 0.1f, 0.99f, -0.5f};
    std::copy_n(map, 6, &transforms[6 * i]);
  }
  for (int r = 0; r < network.value_range_count; r++) {
    const ValueRange& range = network.value_ranges[r];
    for (size_t i = range.begin; i < range.end; i++)
      values[i] = range.role == ValueRole::decayed ? (float)((int)(drawn() % 2001) - 1000) * 3e-4f : 1.0f;
  }
  TrainerSettings settings{};
  settings.pixels = pixels.data(), settings.labels = labels.data();
  settings.values = values.data(), settings.momentum = momentum.data();
  settings.momentum_decay = 0.9, settings.threads = threads;
  for (int c = 0; c < max_input_channels; c++) settings.mean[c] = 0.5, settings.std[c] = 0.3;
  Trainer trainer(network, settings);
  TrainingBatch batch{};
  batch.indices = indices.data(), batch.transforms = transforms.data(), batch.count = images;
  std::vector<double> whole;
  std::vector<std::vector<double>> times(network.operation_count * steps_of_an_operation);
  for (int round = -3; round < rounds; round++) {
    for (auto& row : nanoseconds)
      for (auto& one : row) one = 0;
    const auto start = std::chrono::steady_clock::now();
    // With a rate of zero the weights stay, and so does what a step computes.
    trainer.train_batch(batch, 0, 0, 0, 0);
    const double microseconds = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    if (round < 0) continue;
    whole.push_back(microseconds);
    for (size_t at = 0; at < times.size(); at++)
      times[at].push_back(1e-3 * (double)nanoseconds[at / steps_of_an_operation][at % steps_of_an_operation]);
  }
  std::printf("%.2f\n", median(whole));
  for (size_t at = 0; at < times.size(); at++) {
    const int o = (int)at / steps_of_an_operation, step = (int)at % steps_of_an_operation;
    const Operation& operation = network.operations[o];
    const double microseconds = median(times[at]);
    if (microseconds > 0)
      std::printf("%d %d %d %d %.0f %.0f %.2f\n", o, (int)operation.kind, operation.pool_size, step, flops_of(operation, step),
                  bytes_of(operation, step), microseconds);
  }
}
