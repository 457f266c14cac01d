"""The nouns the starter model learns: one line a kind of thing.

An entry is the `short_name` of the emoji dataset; `short_name=caption words` (underscores for spaces) where
that name is not what a person would type. Fewer and cleaner beats more: a model of seven million weights
remembers a few hundred things well.
"""

from __future__ import annotations

GROUPS: dict[str, str] = {
    "face": """
        slightly_smiling_face=smiling_face grinning=grinning_face wink=winking_face joy=laughing_face
        heart_eyes=face_with_heart_eyes sunglasses=face_with_sunglasses neutral_face sleeping=sleeping_face
        cry=crying_face open_mouth=surprised_face angry=angry_face thinking_face
        face_with_cowboy_hat=cowboy_face stuck_out_tongue=face_with_tongue innocent=angel_face
        nauseated_face=sick_face smiling_imp=devil_face skull ghost alien robot_face=robot clown_face=clown
        jack_o_lantern=pumpkin snowman_without_snow=snowman hankey=poop""",
    "heart": """
        heart=red_heart blue_heart green_heart yellow_heart purple_heart black_heart brown_heart orange_heart
        pink_heart broken_heart""",
    "shape": """
        red_circle large_blue_circle=blue_circle large_orange_circle=orange_circle
        large_yellow_circle=yellow_circle large_green_circle=green_circle large_purple_circle=purple_circle
        black_circle large_red_square=red_square large_blue_square=blue_square large_orange_square=orange_square
        large_yellow_square=yellow_square large_green_square=green_square large_purple_square=purple_square
        large_orange_diamond=orange_diamond large_blue_diamond=blue_diamond star""",
    "animal": """
        mouse=mouse_face cow=cow_face tiger=tiger_face rabbit=rabbit_face cat=cat_face horse=horse_face
        monkey_face dog=dog_face pig=pig_face wolf=wolf_face bear=bear_face panda_face lion_face unicorn_face
        fox_face koala=koala_face frog=frog_face chicken=chicken_face penguin=penguin_face cat2=cat dog2=dog
        monkey elephant bird duck owl parrot flamingo baby_chick=chick crocodile snake turtle sauropod=dinosaur
        whale octopus fish tropical_fish blowfish=pufferfish dolphin crab shark snail bee ladybug=ladybug spider
        butterfly""",
    "plant": """
        evergreen_tree=pine_tree deciduous_tree=tree palm_tree cactus four_leaf_clover maple_leaf mushroom tulip
        cherry_blossom rose sunflower christmas_tree""",
    "food": """
        tomato grapes watermelon tangerine=orange_fruit lemon banana pineapple apple=red_apple green_apple pear
        peach cherries strawberry corn eggplant avocado carrot broccoli hotdog=hot_dog hamburger pizza bread
        fries=french_fries fried_egg popcorn croissant egg pancakes cheese_wedge=cheese icecream=ice_cream_cone
        doughnut=donut cookie candy lollipop birthday=birthday_cake cupcake wine_glass beer=beer_mug
        coffee=cup_of_coffee""",
    "vehicle": """
        car taxi bus ambulance fire_engine=fire_truck tractor bike=bicycle steam_locomotive=steam_train
        train2=train airplane rocket flying_saucer=ufo ship boat=sailboat anchor traffic_light
        octagonal_sign=stop_sign""",
    "sport": """
        soccer=soccer_ball basketball football=american_football baseball 8ball=billiard_ball trophy
        sports_medal=medal dart=target video_game=game_controller game_die=dice teddy_bear kite spades=spade
        diamonds=diamond""",
    "place": """
        house european_castle=castle volcano mountain earth_americas=globe rainbow sunny=sun crescent_moon
        full_moon cloud zap=lightning_bolt snowflake fire droplet ocean=wave ringed_planet=planet umbrella""",
    "object": """
        eye lips tooth bone +1=thumbs_up wave=waving_hand crown tophat=top_hat billed_cap=cap eyeglasses=glasses
        necktie shirt=t-shirt jeans school_satchel=backpack athletic_shoe=sneaker socks ring gem bell guitar
        violin trumpet musical_note musical_keyboard=piano headphones tv camera computer=laptop iphone=phone
        battery bulb=light_bulb candle closed_book=red_book green_book blue_book orange_book moneybag=money_bag
        coin email=envelope gift balloon pencil2=pencil scissors lock key hammer gear magnet shield
        mag=magnifying_glass alarm_clock hourglass door chair warning=warning_sign white_check_mark=check_mark
        x=cross_mark question=question_mark exclamation=exclamation_mark speech_balloon=speech_bubble""",
}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")


def concepts() -> dict[str, tuple[str, str]]:
    """Each emoji `short_name` to its (caption, group); a caption belongs to one emoji."""
    found: dict[str, tuple[str, str]] = {}
    for group, text in GROUPS.items():
        for entry in text.split():
            short_name, _, caption = entry.partition("=")
            words = (caption or short_name).replace("_", " ")
            found.setdefault(short_name, (words, group))
    return found


def split_colour(caption: str) -> tuple[str | None, str]:
    """A caption's leading colour word, if it has one, and the rest: "blue heart" gives ("blue", "heart")."""
    first, _, rest = caption.partition(" ")
    return (first, rest) if rest and first in COLOURS else (None, caption)
