import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { CreateTrainingJobRequestSchema, EstimateTrainingJobRequestSchema } from "../gen/atelier/trainer/v1/trainer_service_pb";
import {
  LearningRateSchedule,
  MixedPrecision,
  Optimizer,
  PredictionType,
  type TrainingConfig,
  TrainingConfigSchema,
  TrainingMethod,
} from "../gen/atelier/trainer/v1/training_pb";

/** A number field: empty means unset. */
export type Amount = number | "";

/** What the form holds. Names as on the page; `fieldOf` says which proto field each is. */
export interface Draft {
  datasetId: number;
  baseModelId: number;
  method: TrainingMethod;
  outputName: string;
  learningRate: Amount;
  batchSize: Amount;
  epochs: Amount;
  maxSteps: Amount;
  resolution: Amount;
  seed: Amount;
  precision: MixedPrecision;
  checkpointing: boolean;
  accumulation: Amount;
  weightDecay: Amount;
  maxGradNorm: Amount;
  schedule: LearningRateSchedule;
  warmup: Amount;
  snrGamma: Amount;
  captionDropout: Amount;
  flip: boolean;
  textEncoder: boolean;
  triggerWord: string;
  rank: Amount;
  alpha: Amount;
  instancePrompt: string;
  classPrompt: string;
  priorPreservation: boolean;
  classImages: Amount;
  /** Whose pictures are the class; empty: they are drawn. */
  classDatasetId: Amount;
  dreamboothFull: boolean;
  samplePrompts: string;
  sampleEvery: Amount;
  checkpointEvery: Amount;
  keep: Amount;
  optimizer: Optimizer;
  emaDecay: Amount;
  noiseOffset: Amount;
  prediction: PredictionType;
  zeroSnr: boolean;
  shuffleTags: boolean;
  keepTags: Amount;
  buckets: boolean;
  masked: boolean;
  compile: boolean;
  shareDevice: boolean;
  rslora: boolean;
  dora: boolean;
  loraPlus: Amount;
  heldOut: Amount;
  measureEvery: Amount;
  patience: Amount;
  useBest: boolean;
  frames: Amount;
  fps: Amount;
  motion: Amount;
  firstNoise: Amount;
  sampleClips: Amount;
}

/** The proto field of each field of the form: where the server's messages about it are shown. */
export const FIELDS: Record<keyof Draft, string> = {
  datasetId: "dataset_id",
  baseModelId: "base_model_id",
  method: "method",
  outputName: "output_name",
  learningRate: "config.learning_rate",
  batchSize: "config.batch_size",
  epochs: "config.epochs",
  maxSteps: "config.max_steps",
  resolution: "config.resolution",
  seed: "config.seed",
  precision: "config.mixed_precision",
  checkpointing: "config.gradient_checkpointing",
  accumulation: "config.gradient_accumulation_steps",
  weightDecay: "config.weight_decay",
  maxGradNorm: "config.max_grad_norm",
  schedule: "config.schedule",
  warmup: "config.warmup_steps",
  snrGamma: "config.snr_gamma",
  captionDropout: "config.caption_dropout",
  flip: "config.random_flip",
  textEncoder: "config.train_text_encoder",
  triggerWord: "config.trigger_word",
  rank: "config.lora.rank",
  alpha: "config.lora.alpha",
  instancePrompt: "config.dreambooth.instance_prompt",
  classPrompt: "config.dreambooth.class_prompt",
  priorPreservation: "config.dreambooth.prior_preservation",
  classImages: "config.dreambooth.num_class_images",
  classDatasetId: "config.dreambooth.class_dataset_id",
  dreamboothFull: "config.dreambooth.full",
  samplePrompts: "config.samples.prompts",
  sampleEvery: "config.samples.interval_steps",
  checkpointEvery: "config.checkpoints.interval_steps",
  keep: "config.checkpoints.keep",
  optimizer: "config.optimizer",
  emaDecay: "config.ema_decay",
  noiseOffset: "config.noise_offset",
  prediction: "config.prediction_type",
  zeroSnr: "config.zero_terminal_snr",
  shuffleTags: "config.caption_shuffle",
  keepTags: "config.caption_keep_tags",
  buckets: "config.aspect_buckets",
  masked: "config.masked_loss",
  compile: "config.compile",
  shareDevice: "config.share_device",
  rslora: "config.lora.rslora",
  dora: "config.lora.dora",
  loraPlus: "config.lora.plus_ratio",
  heldOut: "config.validation.share",
  measureEvery: "config.validation.interval_steps",
  patience: "config.validation.patience",
  useBest: "config.validation.use_best",
  frames: "config.video.num_frames",
  fps: "config.video.frames_per_second",
  motion: "config.video.motion_bucket_id",
  firstNoise: "config.video.noise_augmentation",
  sampleClips: "config.samples.clips",
};

/** A form filled with what this deployment does by default. */
export function draftOf(defaults: TrainingConfig | undefined, datasetId: number, baseModelId: number): Draft {
  const config = defaults ?? create(TrainingConfigSchema);
  return {
    datasetId,
    baseModelId,
    method: TrainingMethod.LORA,
    outputName: "",
    learningRate: config.learningRate ?? "",
    batchSize: config.batchSize ?? "",
    epochs: config.epochs ?? "",
    maxSteps: config.maxSteps ?? "",
    resolution: config.resolution ?? "",
    seed: "",
    precision: config.mixedPrecision,
    checkpointing: config.gradientCheckpointing ?? false,
    accumulation: config.gradientAccumulationSteps ?? "",
    weightDecay: config.weightDecay ?? "",
    maxGradNorm: config.maxGradNorm ?? "",
    schedule: config.schedule || LearningRateSchedule.CONSTANT,
    warmup: config.warmupSteps ?? "",
    snrGamma: config.snrGamma || "",
    captionDropout: config.captionDropout ?? "",
    flip: config.randomFlip ?? false,
    textEncoder: config.trainTextEncoder ?? false,
    triggerWord: config.triggerWord,
    rank: config.lora?.rank ?? "",
    alpha: "",
    instancePrompt: "",
    classPrompt: "",
    priorPreservation: config.dreambooth?.priorPreservation ?? false,
    classImages: config.dreambooth?.numClassImages ?? "",
    classDatasetId: "",
    dreamboothFull: config.dreambooth?.full ?? false,
    samplePrompts: "",
    sampleEvery: config.samples?.intervalSteps ?? "",
    checkpointEvery: config.checkpoints?.intervalSteps ?? "",
    keep: config.checkpoints?.keep ?? "",
    optimizer: config.optimizer || Optimizer.ADAMW,
    emaDecay: config.emaDecay || "",
    noiseOffset: config.noiseOffset || "",
    prediction: config.predictionType,
    zeroSnr: config.zeroTerminalSnr ?? false,
    shuffleTags: config.captionShuffle ?? false,
    keepTags: config.captionKeepTags || "",
    buckets: config.aspectBuckets ?? false,
    masked: config.maskedLoss ?? false,
    compile: config.compile ?? false,
    shareDevice: config.shareDevice ?? false,
    rslora: config.lora?.rslora ?? false,
    dora: config.lora?.dora ?? false,
    loraPlus: "",
    heldOut: "",
    measureEvery: "",
    patience: "",
    useBest: false,
    frames: config.video?.numFrames ?? "",
    fps: config.video?.framesPerSecond ?? "",
    motion: config.video?.motionBucketId ?? "",
    firstNoise: config.video?.noiseAugmentation ?? "",
    sampleClips: "",
  };
}

/** Whether a LoRA learns, and not every weight. */
export function adaptsOnly(draft: Draft): boolean {
  return draft.method !== TrainingMethod.FULL && !(draft.method === TrainingMethod.DREAMBOOTH && draft.dreamboothFull);
}

type Request = MessageInitShape<typeof CreateTrainingJobRequestSchema>;
type EstimateRequest = MessageInitShape<typeof EstimateTrainingJobRequestSchema>;

/** What the form stands for, without what only a job has. */
export function estimateOf(draft: Draft, video: boolean): EstimateRequest {
  const { datasetId, baseModelId, method, config } = requestOf(draft, "", false, video);
  return { datasetId, baseModelId, method, config };
}

/**
 * The request that a form stands for: empty fields are unset, and what the method does not read is left out. `video`:
 * the base model draws clips.
 */
export function requestOf(draft: Draft, requestId: string, start: boolean, video: boolean): Request {
  const prompts = video ? [] : draft.samplePrompts.split("\n").map((line) => line.trim()).filter(Boolean);
  const dreambooth = draft.method === TrainingMethod.DREAMBOOTH;
  const adapts = adaptsOnly(draft);
  return {
    requestId,
    datasetId: draft.datasetId,
    baseModelId: draft.baseModelId,
    method: draft.method,
    outputName: draft.outputName,
    start,
    config: {
      learningRate: given(draft.learningRate),
      batchSize: given(draft.batchSize),
      epochs: given(draft.epochs),
      maxSteps: given(draft.maxSteps),
      resolution: given(draft.resolution),
      seed: draft.seed === "" ? undefined : BigInt(draft.seed),
      mixedPrecision: draft.precision,
      gradientCheckpointing: draft.checkpointing,
      gradientAccumulationSteps: given(draft.accumulation),
      weightDecay: given(draft.weightDecay),
      maxGradNorm: given(draft.maxGradNorm),
      schedule: draft.schedule,
      warmupSteps: given(draft.warmup),
      snrGamma: given(draft.snrGamma),
      captionDropout: given(draft.captionDropout),
      randomFlip: draft.flip,
      trainTextEncoder: draft.textEncoder,
      triggerWord: draft.triggerWord,
      optimizer: draft.optimizer,
      emaDecay: given(draft.emaDecay),
      noiseOffset: given(draft.noiseOffset),
      predictionType: adapts ? PredictionType.UNSPECIFIED : draft.prediction,
      zeroTerminalSnr: !adapts && draft.zeroSnr,
      captionShuffle: draft.shuffleTags,
      captionKeepTags: draft.shuffleTags ? given(draft.keepTags) : undefined,
      aspectBuckets: draft.buckets,
      maskedLoss: draft.masked,
      compile: draft.compile,
      shareDevice: draft.shareDevice,
      validation: {
        share: given(draft.heldOut),
        intervalSteps: given(draft.measureEvery),
        patience: given(draft.patience),
        useBest: draft.useBest,
      },
      lora: adapts
        ? {
            rank: given(draft.rank),
            alpha: given(draft.alpha),
            rslora: draft.rslora,
            dora: draft.dora,
            plusRatio: given(draft.loraPlus),
          }
        : undefined,
      dreambooth: dreambooth
        ? {
            instancePrompt: draft.instancePrompt,
            classPrompt: draft.classPrompt,
            priorPreservation: draft.priorPreservation,
            numClassImages: draft.classDatasetId === "" ? given(draft.classImages) : undefined,
            classDatasetId: draft.priorPreservation ? given(draft.classDatasetId) : undefined,
            full: draft.dreamboothFull,
          }
        : undefined,
      video: video
        ? {
            numFrames: given(draft.frames),
            framesPerSecond: given(draft.fps),
            motionBucketId: given(draft.motion),
            noiseAugmentation: given(draft.firstNoise),
          }
        : undefined,
      samples: { prompts, intervalSteps: given(draft.sampleEvery), clips: video ? given(draft.sampleClips) : undefined },
      checkpoints: { intervalSteps: given(draft.checkpointEvery), keep: given(draft.keep) },
    },
  };
}

function given(amount: Amount): number | undefined {
  return amount === "" ? undefined : amount;
}
