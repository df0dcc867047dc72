-- All operations except posts. Most batches have only posts, and making these functions takes as long
-- as carrying out a post, so they are made only for batches that need them.

local function others()
  local USERS, SEEN, SUBJECTS, RECORDS, NAMES, UNTIL, KINDS = unpack(KEYS, 8, 14)
  local AT, NICKS, LOOKS, OWN, HELD, DEBTS, TOTALS, FACTS, MINE = unpack(KEYS, 15, 23)

  local function take_key()
    return KEYS[tonumber(take())]
  end

  -- ---- logs as a whole

  -- The store gets a new epoch. What follows is in the new epoch only.
  local function renew(epoch)
    set(META, 'ended:' .. get(META, 'epoch'), position)
    set(META, 'epoch', epoch)
    append('V', epoch)
  end

  -- Restore. The node has checked that the numbers have no gap.
  function operations.i()
    local place = tonumber(take())
    local key, records = KEYS[place], KEYS[place + 1]
    local fold, name, epoch, first, count = take(), take(), take(), tonumber(take()), tonumber(take())
    local new, used = {}, false
    for number = 1, count do
      local entry = {kind = take(), at = take(), rest = take(), topic = take(), bucket = take_key()}
      entry.digest = take()
      used = used or (entry.bucket and get(entry.bucket, entry.digest))
      new[number] = entry
    end
    local room = room_at(place)
    local empty = room.first > room.seq
    if first <= room.seq or not (empty or first == room.seq + 1) then
      return '-unfit ' .. room.seq .. (empty and ' 1' or ' 0')
    end
    if used then return '-used' end
    if empty then
      room.first = first
      rank(list_of(fold), fold, new[1].at)
    end
    if not room.name then create(room, key, fold, name) end
    set(key, 'first', room.first)
    renew(epoch)
    for number, entry in ipairs(new) do
      position = position + 1 -- it gets no entry in the feed
      local seq = tostring(first + number - 1)
      add(records, seq, entry.kind .. position .. ' ' .. entry.rest)
      if entry.bucket then set(entry.bucket, entry.digest, seq) end
      if entry.kind == 't' then set(key, 'topic', entry.topic) end
    end
    room.seq = first + count - 1
    set(key, 'seq', room.seq)
  end

  -- One chunk of Wipe: redact the events that the node found, if they are still this user's.
  function operations.w()
    local place, fold, user, count = tonumber(take()), take(), take(), tonumber(take())
    local key, records = KEYS[place], KEYS[place + 1]
    local found = false
    for _ = 1, count do
      local seq, bucket, digest = take(), take_key(), take()
      local record = get(records, seq)
      local kind, its_position, its_at, _, _, its_user, _, of, reply_to, _, text =
        (record or ''):match(RECORD)
      if its_user == user then
        found = true
        if kind == 't' and get(key, 'topic') == text:sub(2) then set(key, 'topic', '') end
        local state = kind == 'm' and ' 0 1 ' or ' 0 0 '
        local tail = table.concat({'forgotten', 'forgotten', of, reply_to, kind == 't' and '\0' or ''}, '\0')
        replace(records, seq, kind .. its_position .. ' ' .. its_at .. state .. tail)
        if bucket then set(bucket, digest, false) end
      end
    end
    if found then append('W', fold, room_at(place).first) end
  end

  -- Remove a room's first events, up to a number, if `first` is still the first number.
  function operations.x()
    local place, fold, first, upto = tonumber(take()), take(), tonumber(take()), tonumber(take())
    local key, records = KEYS[place], KEYS[place + 1]
    local room = room_at(place)
    local holds = room.name and room.first == first and upto <= room.seq
    local gone
    for seq = first, upto do
      local bucket, digest = take_key(), take()
      if holds then
        local record = get(records, tostring(seq))
        gone = (record or ''):match('^%a(%d+)')
        if not gone then damaged(records) end
        replace(records, tostring(seq), false)
        if bucket then set(bucket, digest, false) end
      end
    end
    if not holds then return '-again' end
    if gone then
      room.first = upto + 1
      set(key, 'first', room.first)
      set(key, 'gone', gone)
      local front = room.first <= room.seq and get(records, tostring(room.first))
      rank(list_of(fold), fold, front and front:match('^%a%d+ (%d+)'))
      append('W', fold, room.first)
    end
  end

  -- The end of Erase: remove the topic, and the room itself if it is to be forgotten.
  function operations.e()
    local place, fold, forget = tonumber(take()), take(), take() == '1'
    local key, room = KEYS[place], room_at(place)
    if not room.name then return end
    set(key, 'topic', '')
    if forget and room.first > room.seq then
      for _, field in ipairs({'name', 'seq', 'first', 'gone', 'topic'}) do set(key, field, false) end
      rank(ORDER, fold, false)
      rooms[key] = {seq = 0, first = 1}
    end
  end

  -- Set the time by which retention removes a room's first event.
  function operations.f()
    local fold, time = take(), take()
    if score(list_of(fold), fold) then rank(list_of(fold), fold, time) end
  end

  -- ---- what is kept beside the events

  local function nodes_of(user)
    return get(AT, user) or ''
  end

  -- Return a user's nodes without one of them.
  local function without(nodes, one)
    local others = {}
    for other in nodes:gmatch('%S+') do
      if other:sub(1, 16) ~= one then others[#others + 1] = other end
    end
    return table.concat(others, ' ')
  end

  -- Return what is known of a user who is present, or whose nick is held: whether a token names the
  -- user, the nick, and those of its looks that nobody else has taken meanwhile.
  local function standing_of(user)
    local stored = get(NICKS, user)
    if not stored then return end
    local subject, nick, list = stored:match('^(%d)([^%z]*)(.*)$')
    local held, whole = {}, list ~= ''
    for look in list:gmatch('%z([^%z]*)') do
      if get(LOOKS, look) == user then held[#held + 1] = look else whole = false end
    end
    return {subject = subject == '1', nick = nick, looks = held, claimed = whole}
  end

  local function name(user, subject, nick, looks)
    set(NICKS, user, table.concat({(subject and '1' or '0') .. nick, unpack(looks)}, '\0'))
  end

  local function nick_of(user, nick)
    local standing = standing_of(user)
    return standing and standing.nick or nick
  end

  local function release(standing)
    for _, look in ipairs(standing.looks) do set(LOOKS, look, false) end
  end

  local function is_held(user)
    local ends = score(HELD, user)
    return nodes_of(user) ~= '' or (ends and tonumber(ends) > clock)
  end

  local function forget_standing(user)
    release(standing_of(user))
    set(NICKS, user, false)
    set(DEBTS, user, false)
    rank(HELD, user, false)
  end

  -- Append the change of a record for the nodes that hold it in memory. `scope` is 'r' for all nodes,
  -- 'p' for the nodes of one user, and '' for none.
  local function changed(scope, kind, name, ...)
    if scope == 'r' or (scope == 'p' and #nodes_of(name:match('^[^%z]*')) > 16) then
      append('R', kind, name, ...)
    end
  end

  local function put(scope, kind, name, ends, owner, value)
    local full = kind .. '\0' .. name
    set(RECORDS, full, ends .. ' ' .. owner .. '\0' .. value)
    rank(NAMES, full, 0)
    rank(KINDS, kind, 0)
    rank(UNTIL, full, ends ~= '' and ends)
    changed(scope, kind, name, ends, value)
  end

  local function drop(scope, kind, name)
    local full = kind .. '\0' .. name
    local record = get(RECORDS, full)
    if record then
      set(RECORDS, full, false)
      rank(NAMES, full, false)
      rank(UNTIL, full, false)
    end
    changed(scope, kind, name)
    return record
  end

  -- Put, and a part of Records.
  function operations.r()
    put(take(), take(), take(), take(), '', take())
  end

  -- Lease.
  function operations.l()
    local kind, name, linger, value = take(), take(), take(), take()
    put('', kind, name, '', node .. ' ' .. linger, value)
    set(MINE, 'L\0' .. kind .. '\0' .. name, '')
  end

  -- Drop, and a part of Records.
  function operations.d()
    drop(take(), take(), take())
  end

  -- Take.
  function operations.t()
    local record = drop(take(), take(), take())
    if not record then return end
    local ends, value = record:match('^(%d*) [^%z]*%z(.*)$')
    if ends == '' or tonumber(ends) > clock then return 'T' .. ends .. ' ' .. value end
  end

  -- Retention: drop records, if they still end at the time that the node read.
  function operations.z()
    for _ = 1, tonumber(take()) do
      local kind, name, ends = take(), take(), take()
      if score(UNTIL, kind .. '\0' .. name) == ends then drop('', kind, name) end
    end
  end

  -- Remember.
  function operations.u()
    local user, seen, subject, nick = take(), take(), take(), take()
    set(USERS, user, seen .. ' ' .. subject .. nick)
    rank(SEEN, user, seen ~= '' and seen or 'inf')
    rank(SUBJECTS, user, subject == '1' and 0)
  end

  local function forget_user(user)
    set(USERS, user, false)
    rank(SEEN, user, false)
    rank(SUBJECTS, user, false)
  end

  -- Forget.
  function operations.g()
    local user = take()
    forget_user(user)
    for _, kind in ipairs(call('ZRANGE', KINDS, 0, -1)) do rank(KINDS, kind, 0) end
    for kind in pairs(ranks[KINDS] or {}) do
      local from = kind .. '\0' .. user .. '\0'
      local names = call('ZRANGEBYLEX', NAMES, '[' .. from, '(' .. kind .. '\0' .. user .. '\1')
      for full in pairs(ranks[NAMES] or {}) do
        if full:sub(1, #from) == from then names[#names + 1] = full end
      end
      for _, full in ipairs(names) do drop('', kind, full:sub(#kind + 2)) end
    end
    for look in (get(OWN, '\0' .. user) or ''):gmatch('%z([^%z]*)') do set(OWN, look, false) end
    set(OWN, '\0' .. user, false)
    local standing = standing_of(user)
    if not standing then return end
    if nodes_of(user) == '' then
      forget_standing(user)
    else
      release(standing)
      name(user, standing.subject, standing.nick, {})
    end
  end

  -- Retention: forget users, if they were still last seen at the time that the node read.
  function operations.v()
    for _ = 1, tonumber(take()) do
      local user, seen = take(), take()
      if score(SEEN, user) == seen then forget_user(user) end
    end
  end

  -- ---- who is where

  -- Relay.
  function operations.y()
    append('Y', take(), take())
  end

  -- Arrive.
  function operations.a()
    local user, subject, nick = take(), take() == '1', take()
    local had = standing_of(user) or {looks = {}}
    local others = without(nodes_of(user), node)
    local debt = get(DEBTS, user) or ''
    set(AT, user, others == '' and node or others .. ' ' .. node)
    set(MINE, 'U\0' .. user, '')
    set(DEBTS, user, false)
    rank(HELD, user, false)
    if had.claimed then
      nick = had.nick
    else
      release(had)
      had.looks = {}
    end
    name(user, had.subject or subject, nick, had.looks)
    return table.concat({'A', others == '' and '0' or '1', had.claimed and '1' or '0', nick, '\0',
      debt})
  end

  -- Depart.
  function operations.o()
    local user, hold, debt = take(), take(), take()
    local nodes = nodes_of(user)
    local others = without(nodes, node)
    set(MINE, 'U\0' .. user, false)
    if others == nodes then return end
    set(AT, user, others ~= '' and others)
    if others ~= '' then return end
    set(DEBTS, user, debt ~= '' and debt)
    rank(HELD, user, hold ~= '' and hold or 0)
  end

  -- Claim. OWN maps each look of a subject's id to the subject, and NUL and the subject to its looks.
  function operations.c()
    local user, nick, subject = take(), take(), take() == '1'
    local count, owned = tonumber(take()), tonumber(take())
    local looks, own = {}, {}
    for place = 1, count do looks[place] = take() end
    for place = 1, owned do own[place] = take() end
    for _, look in ipairs(looks) do
      local owner, holder = get(OWN, look), get(LOOKS, look)
      if owner and owner ~= user then return '-nick_taken' end
      if holder and holder ~= user
        and (is_held(holder) or (not subject and standing_of(holder).subject)) then
        return '-nick_taken'
      end
    end
    for _, look in ipairs(own) do
      if not get(OWN, look) then
        set(OWN, look, user)
        set(OWN, '\0' .. user, (get(OWN, '\0' .. user) or '') .. '\0' .. look)
      end
    end
    local had = standing_of(user) or {looks = {}, nick = nick}
    if nodes_of(user) == '' then rank(HELD, user, score(HELD, user) or 0) end
    release(had)
    for _, look in ipairs(looks) do set(LOOKS, look, user) end
    name(user, had.subject or subject, nick, looks)
    if nick ~= had.nick then append('N', user, nick, had.nick) end
  end

  -- Change the number of a room's users, and return it. The room's name is kept with it, as written.
  local function count(fold, change, title)
    local total, known = (get(TOTALS, fold) or '0'):match('^(%d+)%z?(.*)$')
    total = total + change
    set(TOTALS, fold, total > 0 and total .. '\0' .. (title or known))
    return total
  end

  -- Enter. A member is stored as its nodes, each with '+' if the user is an operator there, else '-',
  -- and the nick.
  function operations.n()
    local present, fold, title, user, nick, op = take_key(), take(), take(), take(), take(), take()
    local stored = get(present, user)
    local nodes = without(stored and stored:match('^[^%z]*') or '', node)
    nodes = nodes .. (nodes == '' and '' or ' ') .. node .. op
    set(present, user, nodes .. '\0' .. nick)
    set(MINE, 'R\0' .. fold .. '\0' .. user, '')
    local total = count(fold, stored and 0 or 1, title)
    append('I', fold, title, user, nick_of(user, nick), nodes:find('+', 1, true) and '1' or '0',
      stored and '0' or '1', total)
  end

  -- Exit.
  function operations.q()
    local present, fold, user, reason = take_key(), take(), take(), take()
    local nodes, nick = (get(present, user) or ''):match('^([^%z]*)%z?(.*)$')
    local others = without(nodes, node)
    set(MINE, 'R\0' .. fold .. '\0' .. user, false)
    if others == nodes then return end
    set(present, user, others ~= '' and others .. '\0' .. nick)
    local total = count(fold, others == '' and -1 or 0)
    append('O', fold, user, nick_of(user, nick), reason, others == '' and '1' or '0', total)
  end

  -- ---- nodes that have gone

  -- From here on, act for a node whose lease is over: `MINE` is then that node's key.
  function operations.b()
    local dead = take()
    MINE = take_key()
    local lease = score(NODES, dead)
    if lease and tonumber(lease) > clock then error('the lease of ' .. dead .. ' is not over') end
    node = dead
  end

  -- Set the end of a record that the dead node had leased.
  function operations.m()
    local kind, name = take(), take()
    local full = kind .. '\0' .. name
    local owner, linger, value = (get(RECORDS, full) or ''):match('^ (%S+) (%d+)%z(.*)$')
    if owner == node then put('', kind, name, clock + tonumber(linger), '', value) end
    set(MINE, 'L\0' .. full, false)
  end

  -- Remove the dead node itself: nothing else of it is left.
  function operations.k()
    rank(NODES, node, false)
    set(FACTS, node, false)
  end

  -- End the hold of some nicks, if it still ends at the time that the node read.
  function operations.h()
    for _ = 1, tonumber(take()) do
      local user, hold = take(), take()
      if score(HELD, user) == hold then
        local standing = standing_of(user)
        if standing and not standing.subject then forget_standing(user) end
        rank(HELD, user, false)
      end
    end
  end
end
