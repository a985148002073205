"""Is a domain one that many owners share? A short list, because the core carries no public suffix list.

Two hosts under one registrable domain belong to one owner, so a token realm may be a sibling of its
registry. Without the whole list the answer is yes only for domains of a plain shape: directly under a
generic top-level domain or a country's flat one, or under a country's `co.`/`com.`-like second level; and
never for the hosting domains below, where every customer is a sibling. Everything else is unrelated, and
the operator can list the host.
"""

from __future__ import annotations

from typing import Final

# Countries that sell names directly below their domain, and those used like generic ones.
_FLAT_COUNTRIES_TEXT: Final = """
    ac ag ai am at be bg bz ca cc ch cl cn co cx cz de dk ee es eu fi fm fr gg gr hr hu ie im in io is it la li lt
    lu lv ly me mn mx nl no nu nz pe ph pl pt pw ro rs ru sc se sh si sk so st su tk to tv tw ua us vc vn ws"""
_FLAT_COUNTRIES: Final = frozenset(_FLAT_COUNTRIES_TEXT.split())

# Second levels that countries keep for kinds of owners.
_SECOND_LEVELS_TEXT: Final = """
    ac asn asso com co edu firm gen go gob gouv gov govt gv id info ltd me med mil mod name ne net nhs nic nom or
    org plc pro sch school web"""
_SECOND_LEVELS: Final = frozenset(_SECOND_LEVELS_TEXT.split())

# Domains whose next label is a customer of the owner.
_SHARED_TEXT: Final = """
    appspot.com amazonaws.com amazonaws.com.cn awsapprunner.com azure-api.net azurecontainer.io azurecr.io
    azureedge.net azurefd.net azurestaticapps.net azurewebsites.net backblazeb2.com bitbucket.io blogspot.com
    bunny.run b-cdn.net clever-cloud.com cleverapps.io cloudapp.net cloudapp.azure.com cloudfront.net
    cloudfunctions.net codeberg.page core.windows.net ddns.net deno.dev digitaloceanspaces.com docker.app
    duckdns.org dyndns.org dynv6.net edgekey.net elasticbeanstalk.com fastly.net firebaseapp.com fly.dev
    gateway.dev githubpreview.dev githubusercontent.com github.dev github.io gitlab.io glitch.me googleapis.com
    googleusercontent.com gcr.io herokuapp.com hf.space hosted.app jfrog.io koyeb.app linodeobjects.com lhr.life
    localhost.run loca.lt myqnapcloud.com myshopify.com mysynology.com netlify.app ngrok.app ngrok.dev ngrok.io
    ngrok-free.app ngrok-free.dev nip.io no-ip.org northflank.app now.sh on.aws onrender.com ondigitalocean.app
    openshiftapps.com pages.dev pkg.dev plesk.page pythonanywhere.com r2.dev railway.app readthedocs.io repl.co
    replit.app replit.dev run.app rhcloud.com scw.cloud serveo.net sslip.io stackit.run storage.googleapis.com
    supabase.co surge.sh synology.me trafficmanager.net trycloudflare.com ts.net up.railway.app vercel.app
    vercel.dev web.app windows.net wixsite.com workers.dev wordpress.com xip.io"""
_SHARED: Final = frozenset(_SHARED_TEXT.split())


def is_shared(domain: str) -> bool:
    """Tell whether a domain is, or may be, one whose sub-domains have different owners."""
    labels = domain.split(".")
    if len(labels) < 2 or domain in _SHARED:
        return True
    top = labels[-1]
    if len(top) > 2:
        return False
    if len(labels) == 2:
        return top not in _FLAT_COUNTRIES or labels[0] in _SECOND_LEVELS
    return top not in _FLAT_COUNTRIES and labels[-2] not in _SECOND_LEVELS


def common_owner(one: str, other: str) -> bool:
    """Tell whether two hosts lie under one domain that has a single owner."""
    shared: list[str] = []
    for left, right in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if left != right:
            break
        shared.insert(0, left)
    # Below a hosting domain even a common label proves little (a region, a service), so it is left to the operator.
    below_shared = any(".".join(shared[at:]) in _SHARED for at in range(1, len(shared)))
    return len(shared) >= 2 and not below_shared and not is_shared(".".join(shared))
