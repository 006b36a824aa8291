// Trains a generated network for a few steps and prints the loss and the logits; test_native.py builds it with sanitisers and
// for another processor.
#include <cstdio>

#include "trainer.cpp"

// Returns whether an exception in a task comes to the caller of the loop, and the pool works on after it.
bool pool_survives_exceptions() {
  ThreadPool pool(3);
  for (int round = 0; round < 50; round++) {
    bool caught = false;
    try {
      pool.parallel_for(40, [&](int task, int) {
        if (task % 7 == round % 7) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    std::atomic<int> sum{0};
    pool.parallel_for(40, [&](int task, int) { sum += task; });
    if (!caught || sum != 780) return false;
  }
  return true;
}

// Returns whether a pool of three does without a thread while one stalls again and again, takes it back, and loops stay whole.
bool pool_adapts_to_stalls() {
  ThreadPool pool(3);
  std::atomic<bool> third_in_time{false}, others_at_last{false};
  for (int round = 0; round < 2400; round++) {
    const bool stalls = round < 60, last = round >= 2000;
    std::atomic<int> sum{0};
    pool.parallel_for(6, [&](int task, int thread) {
      if (stalls || last) std::this_thread::sleep_for(std::chrono::microseconds(stalls && thread == 1 ? 5000 : 300));
      if (thread == 2 && round >= 60 && round < 1000) third_in_time = true;
      if (thread > 0 && last) others_at_last = true;
      sum += task;
    });
    if (sum != 15) return false;
  }
  return !third_in_time && others_at_last;
}

int main() {
  if (!pool_survives_exceptions() || !pool_adapts_to_stalls()) return 2;
  const Shape input = network.tensors[0], last = network.tensors[network.tensor_count - 1];
  uint32_t word = 1;
  const auto random = [&] { return (word = hash32(word + 1)) * 0x1p-32f; };
  constexpr int images = 40, batch = 21;
  std::vector<uint8_t> pixels(images * input.values());
  std::vector<int64_t> labels(images), indices(batch);
  std::vector<float> values(network.value_count), momentum(values.size()), second(values.size()), average(values.size());
  std::vector<float> class_weights(last.channels, 0.5f), transforms(batch * 6), logits(images * last.channels);
  for (auto& pixel : pixels) pixel = (uint8_t)(256 * random());
  for (auto& label : labels) label = (int64_t)(last.channels * random());
  for (auto& value : values) value = random() + 0.1f;
  const TrainerSettings settings{pixels.data(), labels.data(), class_weights.data(), values.data(), momentum.data(), second.data(), average.data(),
                          0.9, 1e-3, 0.1, 0.2, {0.13, 0.4}, {0.3, 0.2}, 2, 0.9, 7, 2, 1};
  std::vector<float> teacher_values(values);
  TrainerSettings teacher_settings = settings;
  teacher_settings.values = teacher_values.data();
  Trainer *trainer = nullptr, *teacher = nullptr;
  if (kilonet_create_trainer(&settings, &trainer) || kilonet_create_trainer(&teacher_settings, &teacher)) return 3;
  kilonet_prepare_teacher(teacher);
  const TeacherNetwork handle{teacher, kilonet_teacher_logits, {1.1, 0.9}, {0.2, 0.1}};
  for (int i = 0; i < 2; i++) kilonet_add_teacher(trainer, &handle);
  // Numbers that reach to the end of what the changes read.
  constexpr int starts = 5;
  std::vector<float> shares(batch, 0.7f), colours(batch * input.channels * (input.channels + 1)), noise(starts + input.values());
  std::vector<int64_t> noise_starts(batch, starts);
  std::vector<int32_t> cutouts(4 * batch);
  for (int step = 0; step < 4; step++) {
    for (auto& index : indices) index = (int64_t)(images * random());
    // Large enough to sample outside the image on every side.
    for (auto& number : transforms) number = 40 * (random() - 0.5f);
    for (auto& number : colours) number = random();
    for (auto& number : noise) number = random();
    for (int i = 0; i < batch; i++) {
      cutouts[4 * i + 1] = input.rows, cutouts[4 * i + 3] = input.columns / 2;
    }
    TrainingBatch trained{indices.data(), transforms.data()};
    if (step) {
      trained.blurs = shares.data(), trained.colours = colours.data(), trained.noise_levels = shares.data();
      trained.noise_starts = noise_starts.data(), trained.noise_values = noise.data();
      trained.cutouts = cutouts.data(), trained.shares = shares.data();
    }
    trained.count = batch - step;
    kilonet_train_batch(trainer, &trained, 0.01, 0.5, step, step);
  }
  kilonet_logits(trainer, pixels.data(), images, average.data(), logits.data());
  TrainerTotals totals;
  kilonet_take_totals(trainer, &totals);
  kilonet_destroy_trainer(trainer);
  kilonet_destroy_trainer(teacher);
  printf("%.9g\n", totals.loss);
  for (float logit : logits) printf("%.9g\n", logit);
  for (float logit : logits)
    if (!std::isfinite(logit)) return 1;
  return totals.images == 4 * batch - 6 && std::isfinite(totals.loss) ? 0 : 1;
}
