"""Adversarial logit pairing on ImageNet: tables 3 to 6 and 9 of Kannan et al. (2018).

Command:  python launch/train.py --config=configs/imagenet_alp.py:alp --workdir=gs://BUCKET/alp \
              --data_dir=DATA_DIR
Variants: METHOD or METHOD,ARCHITECTURE, with keys of `METHODS` and `ARCHITECTURES`; or `code`, the released model.
Result:   top-1 accuracy in the worst of eight attacks in the paper: 27.9 % (alp, Inception-v3), 30.2 % (ResNet-101).
          The released ResNet-50 for 64x64 has 0.6 % under 1,000 steps (Engstrom et al., 2018). Not measured here.

From section 5.3: RMSProp with momentum 0.9; learning rate 0.045, multiplied by 0.94 every two epochs; batch 1600 on 50
workers; targeted attacks.
From their code: learning rate 0.045 times the number of workers, each with 32 images (`--config.rates_for_batch_size=0`
uses 0.045); rho 0.9 and epsilon 1.0 of RMSProp; weight decay 1e-4 (on all weights there, on kernels here); label
smoothing 0.1; averages of the weights with momentum 0.9999 (there also of the moving statistics); and pairing weight
0.5, from its example command.
Our choices: epsilon 16/255 with 10 steps of 2/255, the largest values in their evaluation; random target classes; and
ResNet-101 version 1 with images of 224 pixels. The paper does not give the alpha of mixup. It says "about 6 days" and
not a number of epochs; 220 epochs are from Xie & Yuille (2020, appendix A).

`code` is the model that the authors released for ImageNet at 64x64: ResNet-50 version 2, pairing weight 0.25, attacks
towards the least likely class. Their network differs from ours: it reduces the resolution at the end of a stage, has
biases, and averages statistics with momentum 0.997.

`step_ll` follows Kurakin et al. (2017), a row of table 3: one step towards the least likely class, as many clean as
attacked images, and weight 0.3 for attacked images. They draw epsilon for each example; here it is always 16/255.
"""

import ml_collections

PGD = {"name": "pgd", "epsilon": 16 / 255, "steps": 10, "step_size": 2 / 255, "target": "random_any"}
STEP_LL = {"name": "fgsm", "epsilon": 16 / 255, "target": "least_likely"}
# Name: (method, attack, label smoothing)
METHODS = {
    "natural": ({"name": "natural_training"}, None, 0.0),
    "label_smoothing": ({"name": "natural_training"}, None, 0.1),
    "mixup": ({"name": "mixup", "alpha": 0.2}, None, 0.0),
    "step_ll": ({"name": "adversarial_training", "clean_fraction": 1.0, "clean_weight": 1 / 1.3}, STEP_LL, 0.1),
    "mpgd": ({"name": "adversarial_training", "clean_fraction": 1.0}, PGD, 0.1),
    "alp": ({"name": "adversarial_logit_pairing", "pairing_weight": 0.5}, PGD, 0.1),
}
WEIGHT_DECAY = 5e-5  # half of their 1e-4, which multiplies half of the sum of squares
ARCHITECTURES = {
    "inception_v3": ({"name": "inception_v3", "weight_decay": WEIGHT_DECAY}, 299),
    "resnet101": ({"name": "resnet", "depth": 101, "weight_decay": WEIGHT_DECAY}, 224),
}


def get_config(variant: str = "alp") -> ml_collections.ConfigDict:
    """Returns the config of a variant "METHOD", "METHOD,ARCHITECTURE" or "code"."""
    name, _, architecture = variant.replace("code", "alp,code").partition(",")
    architecture = architecture or "inception_v3"
    if name not in METHODS or architecture not in (*ARCHITECTURES, "code"):
        raise ValueError(
            f"variant must be METHOD or METHOD,ARCHITECTURE of {sorted(METHODS)} and {sorted(ARCHITECTURES)}, or "
            f"'code'. Received: variant={variant!r}"
        )
    config = ml_collections.ConfigDict()
    config.config_format = 1
    config.dataset = "imagenet2012"
    config.train_split = "train"
    config.validation_split = "validation"
    config.augmentation = "inception_crop"
    config.method, config.attack, config.label_smoothing = METHODS[name]
    config.validation_attack = PGD
    config.optimizer = {
        "name": "tensorflow1_rmsprop",
        "learning_rate": {"name": "staircase_decay", "initial": 0.045, "rate": 0.94, "epochs": 2.0},
        "use_ema": True,
        "ema_momentum": 0.9999,
    }
    config.batch_size = 1600
    config.rates_for_batch_size = 32
    config.epochs = 220
    config.seed = 0
    config.deterministic = False
    if architecture == "code":
        config.attack = PGD | {"target": "least_likely"}
        config.image_size = 64
        config.classifier = {
            "name": "resnet",
            "depth": 50,
            "version": 2,
            "input_shape": (64, 64, 3),
            "weight_decay": WEIGHT_DECAY,
        }
        config.method.pairing_weight = 0.25
    else:
        config.classifier, config.image_size = ARCHITECTURES[architecture]
    return config
